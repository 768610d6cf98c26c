"""`worker`: runs the tasks of crews in a store until a signal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from watchbill.cli import output
from watchbill.cli.stores import StoreOptions, with_store
from watchbill.errors import AgentNotLoadable, InvalidInput, Problem

if TYPE_CHECKING:
    from watchbill.agents.loading import AgentLoader
    from watchbill.local import LocalCrews
    from watchbill.records import CrewDefinition

ConcurrencyOption = Annotated[
    int | None,
    typer.Option(
        "--concurrency",
        min=1,
        help="Tasks that run at once, per crew. Default: the crew's workers.concurrency.",
        show_default=False,
    ),
]
HealthPortOption = Annotated[
    int | None,
    typer.Option(
        "--health-port",
        min=0,
        max=65535,
        help="Port of /healthz, /readyz and /metrics; 0: any free port. Default: WATCHBILL_HEALTH_PORT, else none.",
        show_default=False,
    ),
]


FolderOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--folder",
        metavar="DIR",
        help="Folder of the agents' modules. Repeatable. Default: the current folder.",
        show_default=False,
    ),
]
GraceOption = Annotated[
    float | None,
    typer.Option(
        "--grace-seconds",
        min=0,
        help="Seconds for which running tasks may go on after SIGTERM before they are handed back. "
        "Default: WATCHBILL_GRACE_SECONDS, else 30.",
        show_default=False,
    ),
]


@with_store(output=False)
def worker(
    store: StoreOptions,
    crews: Annotated[list[str], typer.Argument(metavar="CREW...", help="Crews of the store: NAME or NAMESPACE/NAME.")],
    folders: FolderOption = None,
    concurrency: ConcurrencyOption = None,
    grace_seconds: GraceOption = None,
    health_port: HealthPortOption = None,
) -> int:
    """Run the tasks of crews of a store, until SIGTERM or Ctrl-C.

    A crew is refused if none of its agents can be loaded here, or if the environment lacks the key of a model. If only
    some agents can't be loaded, a warning names them, and their tasks wait for another worker.

    After the signal the worker claims no more tasks, lets running ones finish within the grace period, hands back the
    rest, and exits with 0. After a second signal it hands back all of them at once.
    """
    from watchbill.agents.loading import AgentLoader
    from watchbill.cli import environment, process, serving
    from watchbill.client import Client
    from watchbill.local import LocalCrews

    settings = environment.read(traced=True)
    place = store.place(settings)
    beside = folders or [Path.cwd()]
    _check_folders(beside)
    port = settings.health_port if health_port is None else health_port
    at_work: list[LocalCrews] = []

    async def work(signals: process.Signals) -> int:
        try:
            return await begin(signals)
        except process.Interrupted:
            return 0  # it was asked to stop before it began

    async def begin(signals: process.Signals) -> int:
        async with serving.store(place, at_work, signals) as target:
            async with Client(target, namespace=store.namespace or settings.namespace) as client:
                names = list(dict.fromkeys(client.keys(crew).crew for crew in crews))
                found = {name: await signals.guard(client.crew(name)) for name in names}
            _check_agents(found, AgentLoader(beside, modules=settings.allowed_modules))  # before anything is started
            local = LocalCrews(
                target,
                crews=names,
                folders=beside,
                allow_modules=settings.allowed_modules,
                concurrency=concurrency,
                grace_seconds=settings.grace_seconds if grace_seconds is None else grace_seconds,
            )
            async with serving.started(local, at_work, signals):
                told = await serving.health(local, settings.health_host, port)
                output.say("; ".join(part for part in (f"ready: works for {', '.join(names)}", told) if part))
                return await serving.serve(local, signals)

    return process.run(work)


def _check_folders(folders: list[Path]) -> None:
    """Raises InvalidInput for missing folders."""
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise InvalidInput(
            [Problem(f"{str(f)!r} is not a folder", "Correct the path.", path="--folder") for f in missing]
        )


def _check_agents(crews: dict[str, CrewDefinition], loader: AgentLoader) -> None:
    """Warns of agents that can't be loaded here.

    Raises InvalidInput for crews without a loadable agent, and for agents that lack something in the environment, for
    example a model's key.
    """
    from watchbill.plan import flow

    refused: list[Problem] = []
    for name, crew in crews.items():
        problems, usable = [], set()
        for agent in flow.members(crew):
            try:
                loader.load(crew, agent)
                loader.tools(crew, agent)
                usable.add(agent.agent_id)
            except AgentNotLoadable as error:
                problems.append(str(error))
        if not usable:
            fix = "Start it where its agents are, or name their folder: --folder DIR."
            refused += [Problem(text.rstrip("."), fix, path=f"crew {name}") for text in problems]
        else:
            for text in problems:
                output.say(f"warning: crew {name}: {text} Its tasks wait for a worker that has it.")
        refused += [replace(problem, source=f"crew {name}") for problem in loader.ready(crew, usable)]
    if refused:
        raise InvalidInput(refused)
