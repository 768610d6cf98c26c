"""`run`: a crew of YAML files at work in this process. Here its options are read and checked; in_process.py runs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from watchbill.cli import output
from watchbill.cli.options import (
    AgentOption,
    IdOption,
    InputOption,
    PromptArgument,
    PromptFileOption,
    TimeoutOption,
    refuse_together,
)
from watchbill.cli.stores import Place, StoreOptions, with_store
from watchbill.cli.worker import ConcurrencyOption, HealthPortOption
from watchbill.errors import InvalidInput, Problem

if TYPE_CHECKING:
    from watchbill.api import Crew
    from watchbill.local import Manifests


AlsoOption = Annotated[
    list[Path] | None,
    typer.Option("--also", metavar="FILE", help="One more YAML file or folder. Repeatable.", show_default=False),
]
CrewOption = Annotated[
    str | None, typer.Option("--crew", help="Name of the crew to run, if the files have several.", show_default=False)
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Model of the crews, for example openai:gpt-5-mini. Agents with a systemPrompt then run as LLMAgent.",
        show_default=False,
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue the newest unfinished run of the crew (with this prompt and these inputs, if given). "
        "Finished steps are not repeated.",
    ),
]
WatchOption = Annotated[
    bool,
    typer.Option(
        "--watch",
        help="Run until Ctrl-C: the files' heartbeats fire; events and the result of each heartbeat are printed.",
    ),
]
EphemeralOption = Annotated[
    bool, typer.Option("--ephemeral", help="Use a private store that is removed at the end; its runs can't be resumed.")
]


@with_store()
def run(
    store: StoreOptions,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A YAML file, or a folder of them.")],
    prompt: PromptArgument = None,
    prompt_file: PromptFileOption = None,
    given: InputOption = None,
    also: AlsoOption = None,
    crew: CrewOption = None,
    agent: AgentOption = None,
    model: ModelOption = None,
    task_id: IdOption = None,
    timeout: TimeoutOption = None,
    resume: ResumeOption = False,
    watch: WatchOption = False,
    ephemeral: EphemeralOption = False,
    concurrency: ConcurrencyOption = None,
    health_port: HealthPortOption = None,
) -> int:
    """Run a crew of YAML files in this process, and print its result.

    Everything is checked before anything is stored or started. Without --redis-url the store is a private one: its
    server ends with this process, and its data stay in ./.watchbill/. After Ctrl-C, --resume continues the run.
    """
    from watchbill import init, local
    from watchbill.cli import environment, in_process, process, reading

    _refuse_together(store, agent, timeout, resume=resume, watch=watch, ephemeral=ephemeral)
    text, inputs = reading.work(prompt, prompt_file, given or [])
    settings = environment.read(agents=True, traced=True)
    output.reserve_stdout()
    init.imported()  # people's modules are imported next
    needless = {"--input": given, "--agent": agent, "--id": task_id if watch else None}  # --resume takes an id
    manifests = _load([file, *(also or [])], model, _of_prompt(text, needless, optional=watch or resume))
    fresh = text is not None or watch  # --resume alone makes no store
    place = Place(tried="--ephemeral") if ephemeral else store.place(settings, make=fresh)
    chosen = local.only_crew(manifests, crew) if text is not None or resume or crew is not None else None
    if not manifests.crews:
        raise InvalidInput(Problem("the files declare no crew", "Add one: kind: Crew.", source=str(file)))
    if chosen is not None and text is not None:
        _warn(chosen, text, agent, inputs, task_id)
    local.require_ready(manifests, None if watch else chosen, None if watch else agent)
    namespace = store.namespace or settings.namespace
    asked = in_process.Asked(
        manifests=manifests,
        place=place,
        crew=f"{chosen.metadata.namespace or namespace}/{chosen.name}" if chosen else "",
        prompt=text,
        inputs=inputs,
        agent=agent,
        task_id=task_id,
        model=model,
        timeout=timeout,
        resume=resume,
        namespace=namespace,
        concurrency=concurrency,
        settings=settings if health_port is None else settings.model_copy(update={"health_port": health_port}),
        form=store.form,
        files=_arguments(file, also, crew, store.namespace),
        repeatable=not reading.uses_stdin(prompt, prompt_file, given or []),
    )
    return process.run(lambda signals: (in_process.watch if watch else in_process.once)(asked, signals))


def _refuse_together(
    store: StoreOptions, agent: str | None, timeout: float | None, *, resume: bool, watch: bool, ephemeral: bool
) -> None:
    refuse_together(
        {
            ("--ephemeral", "--resume"): (ephemeral, resume, "An ephemeral store has nothing to be resumed."),
            ("--ephemeral", "--redis-url"): (ephemeral, store.redis_url, "Choose one store."),
            ("--ephemeral", "--state"): (ephemeral, store.state, "Choose one store."),
            ("--watch", "--resume"): (watch, resume, "--watch goes on with every unfinished run by itself."),
            ("--watch", "--timeout"): (watch, timeout, "--watch ends at Ctrl-C."),
            ("--resume", "--agent"): (resume, agent, "Unfinished tasks go on by themselves; only runs are resumed."),
        }
    )


def _load(paths: list[Path], model: str | None, problems: list[Problem]) -> Manifests:
    """The resources in the files. Raises InvalidInput with their problems and the given ones, to be fixed all at
    once."""
    from watchbill import local

    try:
        manifests = local.load(local.files(paths), model=model)
    except InvalidInput as error:
        problems = [*error.problems, *problems]
    if problems:
        raise InvalidInput(problems)
    return manifests


def _warn(crew: Crew, prompt: str, agent: str | None, inputs: Mapping[str, str], task_id: str | None) -> None:
    """Checks the work. Raises InvalidInput; prints warnings once."""
    from watchbill.cli import in_process
    from watchbill.plan import submission
    from watchbill.records import from_crew

    if crew.spec.suspend:
        fix = "Remove it, or set it to false."
        raise InvalidInput(Problem("the crew is suspended, so nothing would begin", fix, path="spec.suspend"))
    for warning in submission.check(from_crew(crew), prompt, agent=agent, inputs=inputs, task_id=task_id):
        output.say(f"warning: {warning}")
    in_process.say_warnings_once()


def _arguments(file: Path, also: list[Path] | None, crew: str | None, namespace: str | None) -> tuple[str, ...]:
    """The arguments by which another command finds the same files and crew."""
    found = [str(file), *(part for path in also or [] for part in ("--also", str(path)))]
    found += ["--crew", crew] if crew else []
    found += ["--namespace", namespace] if namespace else []
    return tuple(found)


def _of_prompt(text: str | None, needless: Mapping[str, object], *, optional: bool) -> list[Problem]:
    """The problems of a prompt that is not there. `needless`: the options that say nothing then, and their values."""
    if text is not None:
        return []
    if not optional:
        fix = "Give PROMPT, --file PATH, or - for stdin. (--resume and --watch need none.)"
        return [Problem("there is no prompt", fix, path="prompt")]
    return [
        Problem(f"{option} has no use without a prompt", f"Add a prompt, or remove {option}.")
        for option, value in needless.items()
        if value
    ]
