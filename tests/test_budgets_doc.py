"""docs/budgets.md says what is so: its crew runs, on a model that answers by script, and its budgets have counted."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pages
from test_readme import BLOCK, ROOT
from watchbill.agents.spending import MAX_TOKENS
from watchbill.api.budgets import Budget
from watchbill.api.parse import parse
from watchbill.testing import FakeModel
from watchbill.worker.execution import account

TEXT = (ROOT / "docs" / "budgets.md").read_text()


async def test_the_crew_of_the_page_runs_and_its_budgets_are_shown(tmp_path: Path) -> None:
    pages.write(TEXT, tmp_path)
    [commands] = pages.shell(TEXT)
    async with FakeModel(["Tides turn.", "Well said."], input_tokens=1000, output_tokens=500) as model:
        key = {"OPENAI_API_KEY": "sk-of-nobody", "OPENAI_BASE_URL": model.base_url}
        code, out, err = await pages.run_beside(f"{commands}\nwatchbill budget press -o json", tmp_path, **key)
    assert code == 0, err
    table, _, data = out.partition("\n{\n")
    assert table.startswith("Well said.\n")
    rows = [re.split(r"  +", line) for line in table.splitlines()[1:]]
    assert [row[:5] for row in rows] == [
        ["BUDGET", "FOR", "TOKENS", "USD", "SPENT"],
        ["day", "crew", "3,000 of 2,000,000", "0.002500 of 20.00", "0%"],
        ["critic", "agent critic", "1,500 of 50,000", "0.001250", "3%"],
    ]
    day, critic = json.loads("{\n" + data)["budgets"]
    assert day["usd"] == {"spent": "0.002500", "under_way": "0.00", "limit": "20.00"}
    assert critic["until"] == rows[2][5]
    assert [one["exhausted"] for one in (day, critic)] == [False, False]


def test_the_page_names_every_field_and_the_figures_of_the_code() -> None:
    table = TEXT.split("| field |")[1].split("\n## ")[0]
    listed = {
        name
        for line in table.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert listed == {field.alias for field in Budget.model_fields.values()} - {"agent", "heartbeat"}
    assert f"or {MAX_TOKENS:,}" in TEXT
    assert f"for up to {account.SOON_SECONDS:.0f} seconds" in TEXT


def test_prices_of_the_page_are_taken() -> None:
    crew = next(text for _, text in BLOCK.findall(TEXT) if "kind: Crew" in text)
    prices = next(text for _, text in BLOCK.findall(TEXT) if text.lstrip().startswith("prices:"))
    assert parse(crew + prices, "press.yaml").crews[0].spec.prices[0].model == "openai:llama3.2"
