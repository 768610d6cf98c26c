"""The changelog: what this version brought is told in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import watchbill

pytestmark = pytest.mark.pure

SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_this_version_is_the_newest_that_the_changelog_tells_of() -> None:
    text = (Path(__file__).parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert versions[1] == watchbill.__version__
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= SECTIONS
