"""What the command line writes can be read back."""

from __future__ import annotations

import pytest

from watchbill.cli.output import as_yaml

pytestmark = pytest.mark.pure


@pytest.mark.parametrize("text", ["y", "n", "yes", "1_000", "0o17", "1e3", ".inf", "null", "12:30"])
def test_text_that_some_reader_of_yaml_takes_for_something_else_is_quoted(text: str) -> None:
    assert as_yaml({"a": text}) == f"a: '{text}'\n"


def test_text_of_several_lines_is_a_block_and_other_text_is_plain() -> None:
    assert as_yaml({"a": "b\nc", "d": "e"}) == "a: |-\n  b\n  c\nd: e\n"
