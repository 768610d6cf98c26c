"""docs/backlog.md says what is so: its crew works as a reader would have it."""

from __future__ import annotations

import json
from pathlib import Path

import pages
from test_readme import ROOT
from watchbill.api.crew import CREW_ROLES_MAX, ROLES_MAX

TEXT = (ROOT / "docs" / "backlog.md").read_text()


def test_the_commands_of_the_page_work(tmp_path: Path) -> None:
    *_, last = pages.run(TEXT, tmp_path)
    result = json.loads(last.stdout[last.stdout.index("{") :])
    assert (result["agent_name"], result["role"], result["output"]) == ("ann", "reviewer", "Review change 7.")


def test_the_page_says_how_many_roles_there_may_be() -> None:
    assert (ROLES_MAX, CREW_ROLES_MAX) == (10, 100)
    assert "An agent has ten roles at most, a crew a hundred." in TEXT
