"""docs/agents.md says what is so: its files are written, its shell blocks run, as a reader would."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import pages
from test_readme import ROOT
from watchbill import errors, metrics
from watchbill.agents.context import Context
from watchbill.worker import __main__ as pod
from watchbill.worker import jobs, lease_keeper
from watchbill.worker.execution import abandoned

TEXT = (ROOT / "docs" / "agents.md").read_text()


def test_the_agents_of_the_page_work_as_it_says(tmp_path: Path) -> None:
    run, twice = pages.run(TEXT, tmp_path)
    result = json.loads(run.stdout)  # what an agent prints, in a process too, is not among it
    assert result["output"] == {"booked": True, "attempt": 1}
    assert "what is printed goes where" in run.stderr
    # among what the agent prints, which its process sends on at its leisure
    assert "completed {'booked': True, 'attempt': 1} True" in twice.stdout.splitlines()
    with sqlite3.connect(tmp_path / "orders.db") as db:
        booked = db.execute("SELECT task, count(*) FROM bookings GROUP BY task").fetchall()
    db.close()
    assert ("order-17/book", 1) in booked


def test_the_page_names_what_there_is() -> None:
    assert f"exits with code {pod.RECYCLED}," in TEXT
    assert f"after {lease_keeper.BLOCKED_SECONDS:g} s the worker warns" in TEXT
    assert (
        f"it has {abandoned.CLEAN_UP_SECONDS:g} s after a timeout, {jobs.STOP_SECONDS:g} s after a cancellation" in TEXT
    )
    for name in re.findall(r"watchbill\.errors\.(\w+)", TEXT):
        assert hasattr(errors, name)
    names = {name for name in (*Context.__dataclass_fields__, *vars(Context)) if not name.startswith("_")}
    ways_in = {name.removesuffix("_sync") for name in names}
    told = set(re.findall(r"`(?:await )?(\w+)", TEXT.split("The context has:\n")[1].split("\n\nA function")[0]))
    of_worker = {
        "cancel",
        "checkpoints",
        "connect_checkpoints",
        "connect_messaging",
        "demands",
        "loop",
        "messaging",
        "tell",
        "team",
    }
    of_worker |= {"await_in_thread", "spending", "to_worker", "usage", "metadata"}
    assert ways_in - told <= of_worker
    declared = {metrics.ABANDONED._name, metrics.LOOP_BLOCKED._name + "_total"}
    assert set(re.findall(r"watchbill_worker_\w+", TEXT)) == declared
