"""`explain`: why a crew has as many workers as it has."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from watchbill.cli import output
from watchbill.cli.options import Output
from watchbill.cli.stores import StoreOptions, with_store
from watchbill.terminal import one_line

if TYPE_CHECKING:
    from watchbill.client import Client


@with_store()
def crew(
    store: StoreOptions,
    name: Annotated[str, typer.Argument(metavar="CREW", help="The crew: NAME or NAMESPACE/NAME.")],
) -> int:
    """Show why a crew has as many workers as it has: what its tasks ask for, its bounds, what holds the number, and
    which workers leave.

    From the values of the operator's last plan. Only reads. Exit 2: there is no such crew, or no operator scales it.
    """

    async def ask(client: Client) -> int:
        from watchbill.errors import NotFound
        from watchbill.plan import scaling

        told = await client.explain(name)
        if told is None:
            raise NotFound(f"no operator has told yet how it scales the crew {name!r}; see `watchbill workers {name}`")
        lines = scaling.sentences(told)
        if store.form is not Output.TEXT:
            output.write({**dataclasses.asdict(told), "sentences": lines}, store.form)
        else:
            output.stdout().write("".join(one_line(line) + "\n" for line in [*lines, f"As of {told.at}."]))
        return 0

    return store.run(ask)
