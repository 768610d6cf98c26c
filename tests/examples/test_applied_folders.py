"""`kubectl apply -f` of the pages: of a folder it reads each file of JSON or YAML, and refuses what is no resource."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
APPLIED = sorted(
    {
        (str(page.relative_to(ROOT)), path)
        for page in [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/README.md")]
        for path in re.findall(r"kubectl apply -f (examples/\S+)", page.read_text())
    }
)


@pytest.mark.parametrize(("page", "path"), APPLIED)
def test_all_that_a_page_has_kubectl_apply_is_a_resource(page: str, path: str) -> None:
    applied = ROOT / path
    read = sorted(applied.iterdir()) if applied.is_dir() else [applied]
    files = [one for one in read if one.suffix in (".json", ".yaml", ".yml")]
    assert files
    for file in files:
        for resource in yaml.safe_load_all(file.read_text()):
            assert {"apiVersion", "kind", "metadata"} <= resource.keys(), file
