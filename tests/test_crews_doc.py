"""docs/crews.md says what is so: its files are written, its commands run, in this process."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import forgetting
import pages
import watchbill.client
from test_readme import ROOT
from watchbill import local
from watchbill.api.modes import ITEMS_MAX, ITERATIONS_MAX
from watchbill.plan import flow
from watchbill.records import ExecutionMode, from_crew
from watchbill.tasks import RunResult, RunState

TEXT = (ROOT / "docs" / "crews.md").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("crews")
    pages.write(TEXT, made)
    with forgetting.modules_below(made):
        yield made


async def ran(folder: Path, file: str, **more: str) -> RunResult:
    """Does what the page's command for that file does."""
    (line,) = (text for text in pages.shell(TEXT) if file in text)
    _, _, name, prompt, *options = shlex.split(line)
    inputs = dict(text.split("=", 1) for text in options if "=" in text)
    run = await watchbill.client.run(folder / name, prompt, inputs={**inputs, **more}, timeout=180)
    assert isinstance(run, RunResult)
    return run


async def test_the_flow_of_the_page_has_the_order_and_the_output_that_it_tells(folder: Path) -> None:
    (crew,) = local.load([folder / "brief.yaml"]).crews
    planned = {step.name: step.after for step in flow.steps(from_crew(crew))}
    assert planned == {"facts": (), "prices": (), "letter": ("facts", "prices"), "archive": ("facts",)}
    (told,) = re.findall(r'`(\{"letter": [^`]*\})`', TEXT)
    assert (await ran(folder, "brief.yaml")).output == json.loads(" ".join(told.split()))


def test_a_run_of_the_page_that_failed_goes_on_when_its_cause_is_mended(folder: Path, tmp_path: Path) -> None:
    (block,) = (text for text in pages.shell(TEXT) if "offer.yaml" in text)
    for name in ("offer.yaml", "offer_agents.py"):
        (tmp_path / name).write_text((folder / name).read_text())
    words = ["bash", "-euc", block]
    done = subprocess.run(words, cwd=tmp_path, env=pages.environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    code, *_, replayed, output = done.stdout.splitlines()
    assert code == "exit code 1"
    assert replayed.endswith("/price")
    assert f"prints {output}\n" in block


async def test_the_crew_of_the_page_costs_as_many_requests_as_it_says(folder: Path) -> None:
    run = await ran(folder, "haiku.yaml")
    assert run.status is RunState.COMPLETED
    assert "makes five requests" in TEXT
    assert run.usage.requests == 5
    each = {name: step.usage.requests for name, step in run.steps.items() if step.usage and step.usage.requests}
    assert each == dict.fromkeys(["poet@1", "critic@1", "poet@2", "critic@2", "synthesis"], 1)


def test_the_page_has_every_mode_with_an_example_that_has_it() -> None:
    rows = re.findall(r"^\| `(\w+)`.*\| \[[\w-]+\]\(\.\./(examples/[\w-]+)\)[^|]* \|$", TEXT, re.MULTILINE)
    assert {mode for mode, _ in rows} == {mode.value for mode in ExecutionMode}
    for mode, example in rows:
        assert f"\n  executionMode: {mode}\n" in (ROOT / example / "crew.yaml").read_text()
    states = {state.value for state in RunState} & set(re.findall(r"^\| `(\w+)`", TEXT, re.MULTILINE))
    assert states == {"completed", "partial", "failed", "cancelled"}


async def test_the_letter_of_the_page_is_written_by_members_and_reviewed(folder: Path) -> None:
    run = await ran(folder, "letter.yaml")
    assert (run.status, run.output) == (RunState.COMPLETED, "Dear Ada!\nYours, Grace!")
    each = ["", ":review", ":work2", ":review2"]
    assert sorted(run.steps) == sorted(["lead", *(f"lead:{item}{step}" for item in (1, 2) for step in each)])


async def test_the_loop_of_the_page_ends_with_its_condition(folder: Path) -> None:
    run = await ran(folder, "review.yaml")
    assert run.status is RunState.COMPLETED
    drafts = [run.steps[f"writer@{n}"].output for n in (1, 2, 3)]
    assert drafts == ["A lamp:", "A lamp: price", "A lamp: price colour"]
    assert [run.steps[f"until@{n}"].output for n in (1, 2, 3)] == [False, False, True]
    assert len(run.steps) == 9
    written = (folder / "review.yaml").read_text()
    (folder / "predicate.yaml").write_text(
        written.replace("{agent: critic, field: approved}", "{predicate: team:has_all}")
    )
    again = await watchbill.client.run(folder / "predicate.yaml", "A lamp:", timeout=180)
    assert isinstance(again, RunResult)
    assert [name for name in again.steps if name.startswith("until")] == ["until@1", "until@2"]


@pytest.mark.parametrize(
    ("log", "state", "skipped", "output"),
    [
        ("INFO started", RunState.COMPLETED, ("alarm",), "1 lines, 0 of them unreadable"),
        ("ERROR disk\nWHAT\nINFO", RunState.PARTIAL, (), "3 lines, 1 of them unreadable"),
        ("INFO disk\nWHAT", RunState.PARTIAL, ("alarm",), "2 lines, 1 of them unreadable"),
    ],
)
async def test_the_triage_of_the_page_does_as_it_says(
    folder: Path, log: str, state: RunState, skipped: tuple[str, ...], output: str
) -> None:
    run = await ran(folder, "triage.yaml", log=log)
    assert (run.status, run.skipped, run.passed_over, run.output) == (state, skipped, skipped, output)
    assert run.steps["explain"].output[0] == f"Explain {log.splitlines()[0]}: {log.split()[1]}"
    if state is RunState.PARTIAL:
        (shown,) = re.findall(r'^\{"error": .*$', TEXT, re.MULTILINE)
        error = run.steps["explain"].output[1]["error"]
        assert list(error) == re.findall(r'"(\w+)": ', shown.removeprefix('{"error": '))
        assert error["step"] == "explain@2"


async def test_the_branches_of_the_page_join_again(folder: Path) -> None:
    (told,) = re.findall(r"answer.yaml .*# prints (.*)", TEXT)
    run = await ran(folder, "answer.yaml")
    assert (run.status, run.passed_over, run.output) == (RunState.COMPLETED, ("feature",), told)
    other = await watchbill.client.run(folder / "answer.yaml", "Green, please.", timeout=180)
    assert isinstance(other, RunResult)
    assert (other.passed_over, other.output) == (("bug",), "You wrote: Green, please. We think about it.")


def test_the_page_names_the_bounds() -> None:
    assert f"({ITERATIONS_MAX} are possible)" in TEXT
    assert f"most {ITEMS_MAX:,} items are possible" in TEXT
