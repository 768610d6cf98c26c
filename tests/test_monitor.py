"""Boards without Grafana: how their values read in a terminal, and that pictures show what was recorded."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from e2e.monitor.answers import Answer, Chosen, answer, number
from e2e.monitor.pictures import drawn
from e2e.monitor.server import Series
from e2e.monitor.view import shown
from rich.console import Console

from monitoring.boards import BOARDS
from monitoring.panels import Board, Panel, Query, Row, Variable

pytestmark = pytest.mark.pure

BOARD = Board(
    uid="some",
    title="Some board",
    about="It shows some.",
    variables=[Variable("namespace", "", ""), Variable("team", "", "", many=True)],
    rows=[
        Row(
            "What is there?",
            [
                Panel(
                    "How full is it?", [Query('full{namespace="$namespace"}', "{{disk}} of {{host}}")], "percentunit"
                ),
                Panel("What rests?", [Query('sum(rest{team=~"$team"})')], "s", kind="stat", limits=(10, 60)),
            ],
        ),
        Row("What fires?", [Panel("Which alerts?", [Query("rate(fires[$__rate_interval])")], "short", kind="table")]),
    ],
)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.0, "short", "0"),
        (12, "short", "12"),
        (0.256, "short", "0.26"),
        (0.0004, "short", "0.0004"),
        (999.6, "short", "1000"),
        (45_300, "short", "45.3k"),
        (2.5e6, "short", "2.5M"),
        (0.5, "reqps", "0.5/s"),
        (0.123, "s", "123 ms"),
        (12.34, "s", "12.3 s"),
        (125, "s", "2m05s"),
        (0.954, "percentunit", "95.4 %"),
        (64 << 20, "bytes", "64 MiB"),
    ],
)
def test_a_value_reads_as_its_unit_has_it(value: float, unit: str, said: str) -> None:
    assert number(value, unit) == said


def given() -> dict[str, Answer]:
    """Answers from 100 to 110: the first panel has two series, the last none."""
    asked: list[str] = []

    def ask(expr: str) -> list[Series]:
        asked.append(expr)
        if expr.startswith("full"):
            return [
                Series({"disk": "a", "host": "x\x1b[2J"}, [(100, 0.0), (105, 0.5), (110, 1.0)]),
                Series({"disk": "b<", "host": "y"}, [(100, 0.25), (110, 0.25)]),
            ]
        return [Series({}, [(110, 75.0)])] if expr.startswith("sum") else []

    found = {panel.title: answer(BOARD, panel, Chosen("team", "", "30s"), ask) for panel in BOARD.panels()}
    assert asked == ['full{namespace="team"}', 'sum(rest{team=~".*"})', "rate(fires[30s])"]
    return found


def test_a_board_reads_as_questions_and_values_and_tells_what_is_unknown() -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(shown(BOARD, given().values(), "of team/some"))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    assert lines == [
        "Some board of team/some",
        "What is there?",
        "How full is it? a of x\N{REPLACEMENT CHARACTER}[2J 100 % · b< of y 25 %",
        "What rests? 1m15s",
        "Nothing is known of",
        "Which alerts?",
    ]


def test_a_picture_has_every_panel_and_its_lines_are_what_was_recorded() -> None:
    tree = ElementTree.fromstring(drawn(BOARD, given(), 100, 110))
    texts = [element.text for element in tree.iter(f"{SVG}text")]
    assert [text for text in texts if text in ("How full is it?", "What rests?", "Which alerts?", "no data")] == [
        "How full is it?",
        "What rests?",
        "Which alerts?",
        "no data",
    ]
    assert "1m15s" in texts
    assert "b< of y" in texts
    level, rising = (path.get("d", "") for path in tree.iter(f"{SVG}path") if path.get("fill") == "none")
    points = [tuple(map(int, point.split(","))) for point in rising.removeprefix("M").split("L")]
    (left, bottom), middle, (right, top) = points
    assert middle == ((left + right) // 2, (bottom + top) // 2)
    assert {int(point.split(",")[1]) for point in level.removeprefix("M").split("L")} == {bottom - (bottom - top) // 4}


def test_the_boards_of_the_chart_can_be_drawn_without_data() -> None:
    for board in BOARDS.values():
        empty = {panel.title: Answer(panel, []) for panel in board.panels()}
        texts = [text.text for text in ElementTree.fromstring(drawn(board, empty, 0, 60)).iter(f"{SVG}text")]
        assert texts.count("no data") == len(empty)


def test_the_page_shows_a_small_picture_of_each_board() -> None:
    page = Path(__file__).parents[1] / "docs" / "monitoring.md"
    pictures = [page.parent / name for name in re.findall(r"!\[.*?\]\((.*?)\)", page.read_text())]
    assert [picture.stem for picture in pictures] == list(BOARDS)
    assert sum(len(picture.read_bytes()) for picture in pictures) < 1_000_000
    for board, picture in zip(BOARDS.values(), pictures, strict=True):
        tree = ElementTree.parse(picture)
        titles = {panel.title for panel in board.panels()}
        drawn_ones = {text.text for text in tree.iter(f"{SVG}text")} & titles
        assert len(drawn_ones) > 0.75 * len(titles), "so many are new: make pictures"
