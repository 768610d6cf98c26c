"""How `top` looks on terminals of any size."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.cells import cell_len

from watchbill.cli import overview
from watchbill.cli.overview import CREWS, Row, Shot
from watchbill.cli.top import rates
from watchbill.store.figures import Deliveries, Ended, Figures, RunningTask, WorkerInfo


def shot(crews: int = 30, **more: Any) -> Shot:
    rows = [Row(f"team/crew-{i:04}", Figures(waiting=crews - i, running=i), 12.34, 0.0) for i in range(crews)]
    return Shot(tuple(rows), **more)


def lines(shot: Shot | None, width: int, height: int, trouble: str = "") -> list[str]:
    return overview.screen("the title", trouble, shot, width, height).plain.split("\n")


@pytest.mark.pure
@pytest.mark.parametrize(("width", "height"), [(200, 50), (80, 24), (40, 10), (20, 5), (10, 3), (3, 1)])
@pytest.mark.parametrize("single", [False, True])
def test_it_fits_every_terminal(width: int, height: int, single: bool) -> None:
    workers = tuple(WorkerInfo(f"host-{i}.abc", 1, 10, False, 5000) for i in range(40))
    longest = tuple(RunningTask(f"task-{i}", "agent", "host-1.abc", 5, 1, 1000 * i) for i in range(40))
    seen = shot(1, workers=workers, longest=longest) if single else shot(100)
    found = lines(seen, width, height)
    assert len(found) <= height
    assert {cell_len(line) for line in found} == {width}
    assert len(found) == height, "all of the room is used: there is more than fits"


@pytest.mark.pure
def test_where_there_is_no_room_the_less_important_columns_go_and_rows_are_counted() -> None:
    wide, narrow = lines(shot(), 200, 50), lines(shot(), 40, 10)
    assert wide[3].split() == list(CREWS.title)
    assert narrow[3].split()[:2] == ["CREW", "WAITING"]
    assert "PARKED" not in narrow[3]
    assert narrow[4].split()[:2] == ["team/crew-0000", "30"]
    assert narrow[-1].strip() == "… 25 more"
    assert "30 crews, 30 with work" in wide[1]
    assert "… " not in "".join(wide)


@pytest.mark.pure
@pytest.mark.parametrize("workers", [None, ()])
def test_deliveries_and_destinations_that_fail_are_shown_where_there_are_any(workers: tuple[()] | None) -> None:
    idle = Row("team/idle", Figures(deliveries=Deliveries(0, 0, 0, None, 0, None)), 0.0, 0.0)
    busy = Row("team/busy", Figures(deliveries=Deliveries(3, 1, 9999, None, 2, 5000)), 0.0, 0.0, ("hook", "ops"))
    text = lines(Shot((busy, idle), workers), 120, 40)
    (title,) = [number for number, line in enumerate(text) if line.startswith("DELIVERIES")]
    assert text[title + 1].split() == ["team/busy", "3", "1", "9999", "2", "5.0s", "hook,", "ops"]
    assert len(text) == title + 2
    assert overview.data(Shot((busy,)))[0]["failing"] == ("hook", "ops")
    assert not [line for line in lines(Shot((idle,), workers), 120, 40) if line.startswith("DELIVERIES")]


@pytest.mark.pure
def test_one_crew_shows_its_classes_workers_and_what_runs_longest_in_whatever_room_there_is() -> None:
    workers = tuple(WorkerInfo(f"host-{i}.abc", 1, 10, i == 0, 5000 if i else -1) for i in range(20))
    longest = tuple(RunningTask(f"task-{i}", "agent", "host-1.abc", 5, 1, 1000 * i) for i in range(20))
    found = lines(shot(1, workers=workers, longest=longest), 120, 40)
    text = "\n".join(found)
    assert re.search(r"critical +0 +0 +-", text)
    assert re.search(r"host-0\.abc +1 +10 +over +silent", text)
    assert re.search(r"host-1\.abc +1 +10 +5\.0s +works", text)
    assert re.search(r"task-2 +2\.0s +agent +normal +1 +host-1\.abc", text)
    assert text.count("more") == 2
    few = lines(shot(1, workers=workers, longest=longest[:1]), 120, 40)
    assert any(line.startswith("task-0") for line in few)


@pytest.mark.pure
def test_trouble_is_said_above_what_was_seen_last() -> None:
    found = lines(shot(), 80, 24, "no answer from the store for 5.0s")
    assert found[1].strip() == "no answer from the store for 5.0s"
    assert found[4].startswith("team/crew-0000")
    assert lines(None, 80, 24)[1].strip() == "looking …"


@pytest.mark.pure
def test_nothing_that_a_worker_says_steers_the_terminal() -> None:
    bad = "\x1b[2Jbad\x07"
    row = Row(bad, Figures(), None, None)
    seen = Shot((row,), (WorkerInfo(bad, 0, 0, False, 1),), (RunningTask(bad, bad, bad, 5, 1, 1),))
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", "\n".join(lines(seen, 200, 50)))


@pytest.mark.pure
@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (None, (1000, Ended(5, "1-0")), (None, None)),
        ((1000, Ended(5, "1-0")), (3000, Ended(25, "2-0", 20, 18, 2)), (9.0, 1.0)),
        ((1000, Ended(5, "1-0")), (3000, Ended(405, "2-0", 100, 50, 25)), (100.0, 50.0)),
        ((1000, None), (2000, Ended(4, "2-0", 4, 4, 0)), (4.0, 0.0)),
        ((1000, None), (2000, None), (0.0, 0.0)),
        ((1000, Ended(5, "1-0")), (2000, Ended(5, "1-0", 0, 0, 0)), (0.0, 0.0)),
        ((1000, Ended(5, "1-0")), (2000, None), (None, None)),
        ((1000, Ended(5, "1-0")), (2000, Ended(1, "0-1", 0, 0, 0)), (None, None)),
        ((1000, Ended(5, "1-0")), (1000, Ended(6, "2-0", 1, 1, 0)), (None, None)),
    ],
)
def test_rates_are_differences_of_what_ever_ended_by_the_stores_clock(before: Any, now: Any, expected: Any) -> None:
    figures = [pair and Figures(now_ms=pair[0], ended=pair[1]) for pair in (before, now)]
    assert rates(*figures) == expected
