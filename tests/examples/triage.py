"""The example, and what it makes of a log."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[2] / "examples" / "log-triage"

QUESTION = "What broke, and what should we look at first?"


# As `watchbill run` does: the folder of the YAML is importable. Its modules have names of their own.
if str(EXAMPLE) not in sys.path:
    sys.path.insert(0, str(EXAMPLE))


parsing = importlib.import_module("log_triage_parse")

ranking = importlib.import_module("log_triage_rank")

reporting = importlib.import_module("log_triage_report")


def findings(log: str, question: str = "") -> dict[str, Any]:
    """What `rank` returns, after a trip through JSON as between two steps."""
    parsed = json.loads(json.dumps(parsing.parse(log)))
    ranked: dict[str, Any] = json.loads(json.dumps(ranking.rank(parsed, question)))
    return ranked


def answer(log: str, question: str = "") -> str:
    return str(reporting.report(findings(log, question)))
