"""Puts the commands together. It may not do any of their work."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from watchbill.cli import (
    about,
    approvals,
    budgets,
    control,
    crews,
    dead,
    deliveries,
    doctor,
    events,
    explain,
    failures,
    heartbeats,
    operator,
    output,
    run,
    sessions,
    status,
    submit,
    top,
    why,
    worker,
)
from watchbill.cli.environment import leveled
from watchbill.cli.failures import reported


def _version(asked: bool) -> None:
    if asked:
        reported(about.version)()


app = typer.Typer(
    name="watchbill",
    help="Run crews of AI agents, on a laptop or against any Redis or Valkey, and lose no task.",
    epilog=failures.EXIT_CODES,
    rich_markup_mode="markdown",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version, and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


for command in (
    run.run,
    crews.apply,
    crews.get,
    crews.delete,
    heartbeats.heartbeats,
    submit.submit,
    submit.result,
    status.status,
    why.why,
    budgets.budget,
    top.top,
    events.events,
    control.cancel,
    control.interrupt,
    control.suspend,
    control.resume,
    approvals.approve,
    approvals.reject,
    worker.worker,
    control.workers,
    control.drain,
    operator.operator,
    doctor.doctor,
    about.crds,
    about.version,
):
    app.command()(reported(command if command in (about.crds, about.version) else leveled(command)))

letters = typer.Typer(name="dead", help="List, show, replay and purge dead letters: tasks that failed for good.")
letters.command("list")(reported(leveled(dead.list_)))
letters.command()(reported(leveled(dead.show)))
letters.command()(reported(leveled(dead.replay)))
letters.command()(reported(leveled(dead.purge)))
app.add_typer(letters, no_args_is_help=True)

told = typer.Typer(name="explain", help="Show why the operator has decided as it has.")
told.command("crew")(reported(leveled(explain.crew)))
app.add_typer(told, no_args_is_help=True)

remembered = typer.Typer(name="sessions", help="List, show and delete sessions: what agents remember.")
remembered.command("list")(reported(leveled(sessions.list_)))
remembered.command()(reported(leveled(sessions.show)))
remembered.command()(reported(leveled(sessions.delete)))
app.add_typer(remembered, no_args_is_help=True)

sent = typer.Typer(name="deliveries", help="List and show deliveries: results that are sent to destinations.")
sent.command("list")(reported(leveled(deliveries.list_)))
sent.command()(reported(leveled(deliveries.show)))
app.add_typer(sent, no_args_is_help=True)


def main() -> None:
    """Runs the command that `sys.argv` names, and exits."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that can't show a character must not cost the result
            stream.reconfigure(errors="backslashreplace")
    output.spare_stderr()
    app()
