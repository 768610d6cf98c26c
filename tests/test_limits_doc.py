"""docs/limits.md says what is so: its crew runs on a model that answers by script, and its fields are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pages
from test_readme import ROOT
from watchbill.api import Agent
from watchbill.api.limits import ModelLimit, RateLimit
from watchbill.testing import FakeModel
from watchbill.worker.execution import account

TEXT = (ROOT / "docs" / "limits.md").read_text()


async def test_the_crew_of_the_page_runs(tmp_path: Path) -> None:
    pages.write(TEXT, tmp_path)
    [commands] = pages.shell(TEXT)
    async with FakeModel(["At three.", "High water is at three."]) as model:
        key = {"OPENAI_API_KEY": "sk-of-nobody", "OPENAI_BASE_URL": model.base_url}
        code, out, err = await pages.run_beside(commands, tmp_path, **key)
    assert (code, out) == (0, "High water is at three.\n"), err


def test_the_page_names_every_field_and_the_figures_of_the_code() -> None:
    table = TEXT.split("| field |")[1].split("\n\n")[0]
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    agent, rate, models = rows[0], rows[1:4], rows[4:]
    assert agent[0] == Agent.model_fields["max_concurrent"].alias
    assert [row[0] for row in rate] == [field.alias for field in RateLimit.model_fields.values()]
    assert rate[0][1] == Agent.model_fields["rate_limit"].alias
    named = {name for row in models for name in row} - {"modelLimits"}
    assert named == {field.alias for field in ModelLimit.model_fields.values()}
    assert f"| `periodSeconds` | {RateLimit.model_fields['period_seconds'].default} |" in table
    assert f"| `periodSeconds` | {ModelLimit.model_fields['period_seconds'].default} |" in table
    assert (account.BEGIN_SECONDS, account.SOON_SECONDS) == (1.0, 5.0)
    assert "for up to a second, or five in mid-conversation" in TEXT
