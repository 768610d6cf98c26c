"""docs/durability.md says what is so: its files are written, its shell blocks run, as a reader would."""

from __future__ import annotations

import json
from pathlib import Path

import pages
from test_readme import ROOT
from watchbill.agents import steps

TEXT = (ROOT / "docs" / "durability.md").read_text()


def test_the_steps_of_the_page_are_done_once(tmp_path: Path) -> None:
    first, *_ = pages.run(TEXT, tmp_path)
    result = json.loads(first.stdout)
    assert result["output"] == {"packed": "One lamp."}
    assert result["steps"]["order"]["attempt"] == 2


def test_the_page_names_the_bounds() -> None:
    mib = 1024 * 1024
    bounds = f"A result may have {steps.RESULT_MAX_BYTES // mib} MiB of JSON. A task may have {steps.STEPS_MAX:,} steps"
    assert f"{bounds} with {steps.ALL_MAX_BYTES // mib} MiB together." in TEXT
