"""`budget`: how much of a crew's budgets is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from watchbill.cli import output
from watchbill.cli.options import CrewArgument, Output
from watchbill.cli.stores import StoreOptions, with_store
from watchbill.plan.budget import State, iso, usd

if TYPE_CHECKING:
    from watchbill.client import Client

_HEADER: Final = ("BUDGET", "FOR", "TOKENS", "USD", "SPENT", "UNTIL", "STATE")


@with_store()
def budget(store: StoreOptions, crew: CrewArgument) -> int:
    """Show how much of each budget of a crew is spent, by its agents' requests to models.

    Requests under way count with what they may cost at most. Budgets of runs are not shown: each run has its own.
    """

    async def ask(client: Client) -> int:
        found = await client.spending(crew)
        if store.form is not Output.TEXT:
            output.write(
                {"budgets": [_plain(one) for one in found.budgets], "unpriced": list(found.unpriced)}, store.form
            )
            return 0
        if found.budgets:
            output.table(_HEADER, [_row(one) for one in found.budgets])
        else:
            output.say("no budgets")
        for model in found.unpriced:
            output.say(f"the price of model {model} is not known: only its tokens count. Set it in spec.prices")
        return 0

    return store.run(ask)


def _plain(state: State) -> dict[str, Any]:
    return {
        "name": state.budget.name,
        "scope": state.budget.scope,
        "subject": state.subject,
        "window": state.budget.window,
        "tokens": {"spent": state.spent.tokens, "under_way": state.held.tokens, "limit": state.budget.tokens},
        "usd": {"spent": usd(state.spent.nano), "under_way": usd(state.held.nano), "limit": state.budget.usd},
        "share": round(state.share, 4),
        "until": _until(state),
        "exhausted": state.is_exhausted,
    }


def _row(state: State) -> tuple[str, ...]:
    of = state.budget
    return (
        of.name,
        f"{of.scope.lower()} {state.subject}".strip(),
        f"{state.spent.tokens:,}" + (f" of {of.tokens:,}" if of.tokens is not None else ""),
        usd(state.spent.nano) + (f" of {of.usd}" if of.usd is not None else ""),
        f"{state.share:.0%}",
        _until(state) or "-",
        "exhausted" if state.is_exhausted else "open",
    )


def _until(state: State) -> str | None:
    """The end of the window, if anything was counted in it."""
    return iso(state.until_ms) if state.until_ms else None
