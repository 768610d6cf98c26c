"""`approve` and `reject`: commands for tasks that wait for somebody's approval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from watchbill.cli import output
from watchbill.cli.control import say_state
from watchbill.cli.options import CrewArgument
from watchbill.cli.stores import StoreOptions, with_store

if TYPE_CHECKING:
    from watchbill.client import Client

WorkArgument = Annotated[str, typer.Argument(metavar="ID", help="A task, or a step of a run: RUN/STEP.")]
WhyOption = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Reason, which is kept with the task.", show_default=False)
]
WhatOption = Annotated[
    str | None,
    typer.Option(
        "--what", metavar="TEXT", help="The approval that is meant, if the task waits for several.", show_default=False
    ),
]

MarkOption = Annotated[
    str | None,
    typer.Option(
        "--mark",
        metavar="TEXT",
        help="The mark that `watchbill why` has shown. If the task has asked anew since, nothing is decided.",
        show_default=False,
    ),
]


@with_store()
def approve(
    store: StoreOptions,
    crew: CrewArgument,
    task_id: WorkArgument,
    what: WhatOption = None,
    mark: MarkOption = None,
    reason: WhyOption = "",
) -> int:
    """Approve of what a task, or a step of a run, waits for, and print its state.

    It goes on as soon as a worker has a slot for it. `watchbill why CREW ID` shows what it waits for: the whole prompt,
    or the arguments of a call of a tool; and the command that approves of that and nothing else. Exit 2: there is no
    such work, it waits for no approval or for several and none is named, it has asked for another since, it was
    rejected, or its time for that is over.
    """
    return _decide(store, crew, task_id, what, mark, reason, approves=True)


@with_store()
def reject(
    store: StoreOptions,
    crew: CrewArgument,
    task_id: WorkArgument,
    what: WhatOption = None,
    mark: MarkOption = None,
    reason: WhyOption = "",
) -> int:
    """Reject what a task, or a step of a run, waits for, and print its state.

    The task fails with the reason, unless its agent goes on without the approval. A model is told the reason in place
    of a tool's result. Exit 2: there is no such work, it waits for no approval or for several and none is named, it has
    asked for another since, it was approved, or the time for that is over.
    """
    return _decide(store, crew, task_id, what, mark, reason, approves=False)


def _decide(
    store: StoreOptions, crew: str, task_id: str, what: str | None, mark: str | None, reason: str, *, approves: bool
) -> int:
    async def work(client: Client) -> int:
        decide = client.approve if approves else client.reject
        changed = await decide(crew, task_id, what=what, mark=mark, reason=reason)
        await say_state(client, crew, task_id, store.form)
        if not changed:
            output.say(f"{task_id} was {'approved' if approves else 'rejected'} before: nothing was changed")
        return 0

    return store.run(work)
