"""Texts that people read alone: the HELP of a metric, the help of a command, a docstring in an editor."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from prometheus_client import REGISTRY

from statements import statements
from watchbill.cli.app import app
from watchbill.metrics.queues import FAMILIES

pytestmark = pytest.mark.pure

ROOT = Path(__file__).resolve().parents[1]
MEASURED = re.compile(
    r"(Age|Duration|Time) of |Time (from|that) |Times that |Version of |1 while .*, else 0$"
    r"|(Tasks|Steps|Requests|Attempts|Agents|Workers|Submissions|Dead letters|Tokens|Lease renewals|Heartbeat slots"
    r"|Crews|Changes|Reconciliations|Statuses|Deliveries|Memory)\b"
)
"""A HELP begins with what is measured."""
HELP = {family.name: family.help for family in FAMILIES}
HELP |= {family.name: family.documentation for family in REGISTRY.collect() if family.name.startswith("watchbill_")}
FRAGMENT = re.compile(
    r"(Of|Those|These|The same|Unless|Which|Who|Whoever|Whose|They|And|Or|But|Their|Else|See"
    r"|What|How|Whether|Where|When|Why)\b"
)
"""Words that begin half a sentence, whose other half is elsewhere."""
VERBS = re.compile(
    r"(Add|Approve|Cancel|Continue|Create|Delete|Don't|Examine|Fire|Let|List|Log|Print|Read|Reject|Remove|Replay|Resume"
    r"|Return|Run|Select|Set|Show|Stop|Submit|Suspend|Use|Wait)\b"
)
NOUNS = re.compile(
    r"(An?|One more|The|Named|Longest|Earliest) \w+|(Crews?|Folder|Format|Ids?|Image|Key|Kind|Model|Names?|Namespace"
    r"|Number|Port|Priority|Reason|Seconds|Tasks|URL)\b"
)


def commands(command: Any, name: str = "watchbill") -> Iterator[tuple[str, Any]]:
    yield name, command
    for word, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {word}")


COMMANDS = dict(commands(typer.main.get_command(app)))
OPTIONS = {
    f"{name} {option.name}": getattr(option, "help", None) or ""
    for name, command in COMMANDS.items()
    for option in command.params
    if option.name not in ("install_completion", "show_completion")
}


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Those of modules, classes and functions, and those below attributes."""
    for statement in statements(ast.parse(path.read_text())):
        match statement:
            case ast.Expr(value=ast.Constant(value=str(text)), lineno=line):
                yield line, text.strip()


def test_every_help_of_a_metric_begins_with_what_is_measured() -> None:
    assert len(HELP) > 30
    assert [name for name, text in HELP.items() if not MEASURED.match(text)] == []
    assert [name for name, text in HELP.items() if text.endswith(".") or re.search(r"\bof (them|these)\b", text)] == []


def test_every_command_and_option_has_a_help_of_whole_sentences() -> None:
    texts = {name: command.help or "" for name, command in COMMANDS.items()} | OPTIONS
    assert len(texts) > 200
    assert {name: text for name, text in texts.items() if not re.match(r"[A-Z].*[.:]$", text, re.DOTALL)} == {}
    assert {name: text for name, text in OPTIONS.items() if not (VERBS.match(text) or NOUNS.match(text))} == {}
    commands_help = {name: command.help or "" for name, command in COMMANDS.items()}
    assert {name: text for name, text in commands_help.items() if not VERBS.match(text)} == {}


def test_no_docstring_begins_as_half_a_sentence() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text[:60]}"
        for folder in ("operator", "charts", "bench", "e2e")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, text in docstrings(path)
        if FRAGMENT.match(text)
    ]
    assert found == []
