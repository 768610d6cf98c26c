"""docs/seeds.md names a test for each thing that an original did wrong, and the test is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "seeds.md"
TABLE = re.compile(r"^\| there \| here \| the test \|\n\|[-|]+\|\n((?:\|.*\n)+)", re.MULTILINE)
ROW = re.compile(r"\| ([^|]+) \| ([^|]+) \| \[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\) \|")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL))
LEAST = {"Crew records": 12, "Messaging": 9, "A network of agents": 8, "AgentService": 15, "Events": 2}
"""Section → how many things are known to be wrong there."""


def defined_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("section", LEAST)
def test_each_row_names_a_test_that_is_there(section: str) -> None:
    [rows] = TABLE.findall(SECTIONS[section])
    found = [ROW.fullmatch(row) for row in rows.splitlines()]
    assert all(found), rows
    assert len(found) >= LEAST[section]
    named = [(row[4], row[3]) for row in found if row]
    assert [name for file, name in named if name not in defined_in(file)] == []
    assert len({name for _, name in named}) == len(named), "one test for each"
