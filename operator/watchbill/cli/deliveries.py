"""`deliveries`: list and show the deliveries of a crew's results."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from watchbill.cli import output
from watchbill.cli.options import CrewArgument, Output
from watchbill.cli.stores import StoreOptions, with_store
from watchbill.terminal import one_line, printable

if TYPE_CHECKING:
    from watchbill.client import Client
    from watchbill.store.deliveries import Delivery

_HEADER: Final = ("DELIVERY", "DESTINATION", "STATE", "ATTEMPTS", "WHEN", "LAST")


@with_store()
def list_(
    store: StoreOptions,
    crew: CrewArgument,
    count: Annotated[int, typer.Option("--count", min=1, help="Number of deliveries to list, at most.")] = 100,
) -> int:
    """List deliveries: unfinished ones first, then those that ended last."""

    async def ask(client: Client) -> int:
        found = await client.deliveries(crew, count=count)
        if store.form is not Output.TEXT:
            plain = [_plain(one) for one in found]
            output.write([{k: v for k, v in one.items() if k not in ("log", "message")} for one in plain], store.form)
        elif found:
            output.table(_HEADER, [_row(one) for one in found])
        else:
            output.say("no deliveries")
        return 0

    return store.run(ask)


@with_store()
def show(
    store: StoreOptions,
    crew: CrewArgument,
    wanted: Annotated[str, typer.Argument(metavar="ID", help="Id of a delivery.")],
) -> int:
    """Show a delivery: its attempts that failed, and its message."""

    async def ask(client: Client) -> int:
        shown = _plain(await client.delivery(crew, wanted))
        if store.form is not Output.TEXT:
            output.write(shown, store.form)
            return 0
        log, message = shown.pop("log"), shown.pop("message")
        width = max(map(len, shown)) + 1
        for name, value in shown.items():
            if value is not None:
                sys.stdout.write(f"{(name + ':').ljust(width)} {one_line(str(value))}\n")
        for one in log:
            status = "" if one["status"] is None else f" {one['status']}"
            sys.stdout.write(f"attempt {one['number']} at {one['at']}:{status} {one_line(one['error'])}\n")
        sys.stdout.write(f"\nmessage:\n{printable(json.dumps(message, indent=2, ensure_ascii=False))}\n")
        return 0

    return store.run(ask)


def _plain(delivery: Delivery) -> dict[str, Any]:
    fields = {
        field.name: getattr(delivery, field.name) for field in dataclasses.fields(delivery) if field.name != "log"
    }
    for name in ("submitted_at", "ended_at", "due_at"):
        fields[name] = fields[name] and fields[name].isoformat(timespec="milliseconds")
    fields["state"] = delivery.state.value
    fields["message"] = dict(delivery.message)
    fields["log"] = [
        {
            "number": one.number,
            "at": one.at.isoformat(timespec="milliseconds"),
            "status": one.status,
            "error": one.error,
        }
        for one in delivery.log
    ]
    return fields


def _row(delivery: Delivery) -> tuple[str, ...]:
    now = output.now()
    if delivery.due_at is not None:
        when = f"in {output.seconds(max((delivery.due_at - now).total_seconds(), 0))}"
    else:
        at = delivery.ended_at or delivery.submitted_at
        when = f"{output.seconds(max((now - at).total_seconds(), 0))} ago"
    last = str(delivery.status or "")
    if not last and delivery.log:
        last = delivery.log[-1].error
    short = last if len(last) <= 80 else f"{last[:79]}…"
    return (delivery.id, delivery.destination, delivery.state.value, str(delivery.attempts), when, short or "-")
