"""docs/watches.md says what is so: its crew runs, its watch begins work, and its fields and figures are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pages
from test_readme import ROOT
from watchbill.api.watches import Watch
from watchbill.event_types import CREW_STREAM_MAX, RETENTION_SECONDS, EventType, TownEvent
from watchbill.plan import watches
from watchbill.worker import watching

TEXT = (ROOT / "docs" / "watches.md").read_text()


def test_the_watch_of_the_page_begins_work(tmp_path: Path) -> None:
    [done] = pages.run(TEXT, tmp_path)
    assert "Grind the rye." in done.stdout
    assert "watch bake: task_completed of rye" in done.stdout


def test_the_page_names_every_field_and_the_figures_of_the_code() -> None:
    table = TEXT.split("| field |")[1].split("\n\n")[0]
    named = [line.split("|")[1].strip(" `") for line in table.splitlines() if line.startswith("| `")]
    assert named == [field.alias for name, field in Watch.model_fields.items() if name != "name"]
    [listed] = re.findall(r"The fields of an event are (.*?)\. The message", TEXT, re.DOTALL)
    assert sorted(re.findall(r"`(\w+)`", listed)) == sorted(TownEvent.model_fields)
    [unwatched] = re.findall(r"Events that name neither.*", TEXT, re.DOTALL)
    watched = set(Watch.model_json_schema()["properties"]["events"]["items"]["enum"])
    assert set(re.findall(r"`(\w+)`", unwatched)) == {*EventType} - watched
    assert (watches.CHAIN_MAX, "five watches" in TEXT) == (5, True)
    assert (CREW_STREAM_MAX, RETENTION_SECONDS) == (1000, 86_400)
    assert "about 1,000 events, for a day" in TEXT
    assert (watching.LOOK_SECONDS, "about once a second" in TEXT) == (1.0, True)
    assert watches.work_id("NAME", "1-0") == "watch-NAME-1-0"
