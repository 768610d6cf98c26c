"""`run`: a crew of YAML files at work in this process. Here its options are read and checked; in_process.py runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from watchbill.cli import output
from watchbill.cli.options import (
    AgentOption,
    IdOption,
    InputOption,
    NamespaceOption,
    Output,
    OutputOption,
    PromptArgument,
    PromptFileOption,
    RedisUrlOption,
    StateOption,
    TimeoutOption,
    refuse_together,
)
from watchbill.cli.worker import ConcurrencyOption, HealthPortOption
from watchbill.errors import InvalidInput, Problem


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A YAML file, or a folder of them.")],
    prompt: PromptArgument = None,
    prompt_file: PromptFileOption = None,
    given: InputOption = None,
    also: Annotated[
        list[Path] | None,
        typer.Option("--also", metavar="FILE", help="One more YAML file or folder. Repeatable.", show_default=False),
    ] = None,
    crew: Annotated[
        str | None, typer.Option("--crew", help="Which crew, if the files have several.", show_default=False)
    ] = None,
    agent: AgentOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="The crews' model, as in openai:gpt-5-mini. Agents with a systemPrompt then run as LLMAgent.",
            show_default=False,
        ),
    ] = None,
    task_id: IdOption = None,
    timeout: TimeoutOption = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the newest unfinished run of the crew (with this prompt and these inputs, if given). "
            "Finished steps are not repeated.",
        ),
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Stay until Ctrl-C: the files' heartbeats fire; events, and what came of each heartbeat, are printed.",
        ),
    ] = False,
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="A private store that leaves nothing behind: no --resume afterwards.")
    ] = False,
    concurrency: ConcurrencyOption = None,
    health_port: HealthPortOption = None,
    redis_url: RedisUrlOption = None,
    state: StateOption = None,
    namespace: NamespaceOption = None,
    form: OutputOption = Output.TEXT,
) -> int:
    """Run a crew of YAML files in this process, and print its result.

    Everything is checked before anything is stored or started. Without --redis-url the store is a private one in
    ./.watchbill/, which ends with this process and keeps its data. Ctrl-C stops in good order and keeps the run.
    """
    from watchbill import service
    from watchbill.cli import environment, hints, in_process, process, reading, stores
    from watchbill.plan import submission
    from watchbill.records import from_crew

    refuse_together(
        {
            ("--ephemeral", "--resume"): (ephemeral, resume, "An ephemeral store has nothing to be resumed."),
            ("--ephemeral", "--redis-url"): (ephemeral, redis_url, "Choose one store."),
            ("--ephemeral", "--state"): (ephemeral, state, "Choose one store."),
            ("--watch", "--resume"): (watch, resume, "--watch goes on with every unfinished run by itself."),
            ("--watch", "--timeout"): (watch, timeout, "--watch ends at Ctrl-C."),
            ("--resume", "--agent"): (resume, agent, "Unfinished tasks go on by themselves; only runs are resumed."),
        }
    )
    text, inputs = reading.work(prompt, prompt_file, given or [])
    settings = environment.read(agents=True)
    output.keep_stdout()
    problems = _of_prompt(text, given, agent, optional=watch or resume)
    try:
        manifests = service.load(service.files([file, *(also or [])]), model=model)
    except InvalidInput as error:
        problems = [*error.problems, *problems]
    if problems:  # all of them: who mends one should not find the next
        raise InvalidInput(problems)
    fresh = text is not None or watch  # --resume alone makes no store
    place = stores.Place(tried="--ephemeral") if ephemeral else stores.place(redis_url, state, settings, make=fresh)
    chosen = None
    if text is not None or resume or crew is not None:
        chosen = service.only_crew(manifests, crew)
    elif not manifests.crews:
        raise InvalidInput(Problem("the files declare no crew", "Add one: kind: Crew.", source=str(file)))
    if chosen is not None and text is not None:
        for warning in submission.check(from_crew(chosen), text, agent=agent, inputs=inputs, task_id=task_id):
            output.say(f"warning: {warning}")
        in_process.say_warnings_once()
    service.require_ready(manifests, None if watch else chosen, None if watch else agent)
    default = namespace or settings.namespace
    full = f"{chosen.metadata.namespace or default}/{chosen.name}" if chosen else None
    files = [str(file), *(part for path in also or [] for part in ("--also", str(path)))]
    files += ["--crew", crew] if crew else []
    files += ["--namespace", namespace] if namespace else []
    asked = in_process.Asked(
        manifests=manifests,
        place=place,
        crew=full,
        prompt=text,
        inputs=inputs,
        agent=agent,
        task_id=task_id,
        model=model,
        timeout=timeout,
        resume=resume,
        namespace=default,
        concurrency=concurrency,
        grace_seconds=settings.grace_seconds,
        allow_modules=settings.allowed_modules,
        health_host=settings.health_host,
        health_port=settings.health_port if health_port is None else health_port,
        form=form,
        next=hints.Next(
            crew=chosen.name if chosen and full == f"{settings.namespace}/{chosen.name}" else full or "",
            files=tuple(files),
            place=place,
            repeatable=not reading.uses_stdin(prompt, prompt_file, given or []),
            model=model is None and any(a.system_prompt for c in manifests.crews for a in c.spec.agents),
            agent=agent,
            chosen_model=model,
        ),
    )
    return process.run(lambda signals: (in_process.watch if watch else in_process.once)(asked, signals))


def _of_prompt(text: str | None, given: list[str] | None, agent: str | None, *, optional: bool) -> list[Problem]:
    if text is not None:
        return []
    if not optional:
        fix = "Give PROMPT, --file PATH, or - for stdin. (--resume and --watch need none.)"
        return [Problem("there is no prompt", fix, path="prompt")]
    return [
        Problem(f"{option} has no use without a prompt", f"Add a prompt, or remove {option}.")
        for option, value in (("--input", given), ("--agent", agent))
        if value
    ]
