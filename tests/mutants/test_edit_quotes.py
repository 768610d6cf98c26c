"""Every edit quotes its line as it is now, and names tests that exist. So a change of the line is noticed at once."""

from __future__ import annotations

import pytest
from edits import load
from tree import ROOT

pytestmark = pytest.mark.pure


def test_each_edit_quotes_one_place_and_names_tests_that_exist() -> None:
    for edit in load():
        for test in edit.tests:
            path, _, name = test.partition("::")
            assert not name or f"def {name.partition('[')[0]}(" in (ROOT / "tests" / path).read_text(), (
                edit.name,
                test,
            )
            assert (ROOT / "tests" / path).exists(), (edit.name, test)
