"""docs/batches.md says what is so: its crew is one, and each field and figure is that of the code."""

from __future__ import annotations

import re

from test_readme import BLOCK, ROOT
from watchbill.api.batches import Batch
from watchbill.api.parse import parse
from watchbill.plan import batches
from watchbill.worker import batch_sender

TEXT = (ROOT / "docs" / "batches.md").read_text()


def test_the_crew_of_the_page_is_taken() -> None:
    crew = next(text for _, text in BLOCK.findall(TEXT) if "kind: Crew" in text)
    assert parse(crew, "nightly.yaml").crews[0].spec.agents[0].batch == Batch.model_validate({"maxWaitSeconds": 43200})


def test_the_page_names_every_field_and_the_figures_of_the_code() -> None:
    listed = re.findall(r"^\| `(\w+)` \| (?:`(\d+)` )?\|", TEXT, re.MULTILINE)
    fields = Batch.model_fields.values()
    assert listed == [(field.alias, "" if field.is_required() else str(field.default)) for field in fields]
    assert f"after {batch_sender.FIRST_LOOK_SECONDS:.0f} seconds" in TEXT
    assert f"larger than {batches.REQUEST_MAX // 1024**2} MiB" in TEXT
