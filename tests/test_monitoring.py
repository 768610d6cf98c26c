"""Boards and alerts ask only for metrics that there are, and what they lead to is there.

Prometheus itself runs the rules in test_promtool.py, and all of it in e2e/control_plane/test_alerts_fired.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client import Histogram
from promql_parser import AggregateExpr, BinaryExpr, Call, MatrixSelector, ParenExpr, SubqueryExpr, UnaryExpr

from monitoring import alerts, panels
from monitoring.boards import BOARDS, NOT_SHOWN
from watchbill import metrics

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "watchbill"
RUNBOOKS = ROOT / "docs" / "runbooks"
TARGET = {"namespace", "instance", "job", "pod"}
"""Labels that the scrape gives."""
OTHERS = {
    "ALERTS": {"alertname", "alertstate", "severity", "crew", "priority", "agent", "heartbeat", "channel"},
    "process_cpu_seconds_total": set(),
    "process_resident_memory_bytes": set(),
}
"""Metrics that Prometheus and its client make."""
PARTS = {"_bucket": {"le"}, "_sum": set(), "_count": set()}


def declared() -> dict[str, set[str]]:
    """Name of each series → its own labels."""
    found: dict[str, set[str]] = {name: set(labels) for name, labels in OTHERS.items()}
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", (ROOT / "docs/reference/metrics.md").read_text(), re.M)
    for name, kind, listed in rows:
        labels = {label.strip() for label in listed.split(",")} - {""} | ({"version"} if kind == "info" else set())
        parts = PARTS if kind == "histogram" else {"": set()}
        found |= {f"{name}{part}": labels | more for part, more in parts.items()}
    return found


def recorded() -> dict[str, set[str]]:
    """What the rules record."""
    rules = (rule for group in alerts.GROUPS for rule in group.rules)
    return {rule.name: {"namespace", "crew"} for rule in rules if isinstance(rule, alerts.Record)}


def queries() -> Iterator[tuple[str, str]]:
    """Where each query is, and the query as Prometheus gets it."""
    for name, board in BOARDS.items():
        for panel in board.panels():
            yield from (
                (f"{name}: {panel.title}", query.expr.replace("$__rate_interval", "5m")) for query in panel.queries
            )
        for variable in board.variables:
            inner = re.fullmatch(r"label_values\((.*), \w+\)", variable.values)
            assert inner is not None
            yield f"{name}: {variable.name}", inner[1]
    for group in alerts.render()["groups"]:
        yield from ((rule.get("alert") or rule["record"], rule["expr"]) for rule in group["rules"])


def asked(expr: Any) -> Iterator[tuple[str, set[str]]]:
    """The name of each series in an expression, and the labels that it is chosen by."""
    match expr:
        case promql_parser.VectorSelector():
            yield expr.name or "", {matcher.name for matcher in expr.matchers.matchers}
        case MatrixSelector():
            yield from asked(expr.vector_selector)
        case BinaryExpr():
            yield from asked(expr.lhs)
            yield from asked(expr.rhs)
        case Call():
            for argument in expr.args:
                yield from asked(argument)
        case AggregateExpr() | ParenExpr() | SubqueryExpr() | UnaryExpr():
            yield from asked(expr.expr)


def test_every_query_asks_for_series_and_labels_that_there_are() -> None:
    there = declared() | recorded()
    wrong = []
    for where, text in queries():
        found = list(asked(promql_parser.parse(text)))
        wrong += [f"{where}: {name}" for name, _ in found if name not in there]
        known = set().union(*(there.get(name, set()) for name, _ in found)) | TARGET
        wrong += [f"{where}: {name}{{{label}}}" for name, by in found for label in by - there.get(name, set()) - TARGET]
        grouped = {label for listed in re.findall(r"(?:by|on) \(([^)]*)\)", text) for label in listed.split(", ")}
        wrong += [f"{where}: by ({label})" for label in grouped - known]
    assert wrong == []
    assert len(there) > 60


def test_a_misspelt_series_or_label_would_be_found() -> None:
    (found,) = asked(promql_parser.parse('sum by (crew) (rate(watchbill_taks_total{outcom="dead"}[5m]))'))
    assert found == ("watchbill_taks_total", {"outcom"})
    assert found[0] not in declared()
    assert declared()["watchbill_tasks_total"] == {"namespace", "crew", "agent", "outcome"}
    assert declared()["watchbill_task_run_seconds_bucket"] == {"namespace", "crew", "agent", "le"}


def test_every_metric_is_on_a_board_or_says_why_not() -> None:
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for board in BOARDS.values()
        for panel in board.panels()
        for query in panel.queries
        for name, _ in asked(promql_parser.parse(query.expr.replace("$__rate_interval", "5m")))
    }
    listed = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/reference/metrics.md").read_text(), re.M))
    assert listed - shown == set(NOT_SHOWN)
    assert all(NOT_SHOWN.values())


@pytest.mark.parametrize("name", BOARDS)
def test_grafana_reads_all_of_a_board(name: str) -> None:
    """Nothing is lost on the way through Grafana's own models: no key is misspelt, none is in the wrong place."""
    register_default_plugins()
    text = (CHART / "files" / "dashboards" / f"{name}.json").read_text()
    assert len(text) < 256_000
    given = json.loads(text)
    assert text == json.dumps(given, separators=(",", ":"), ensure_ascii=False) + "\n"
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(given)))
    assert list(lost(given, read)) == []


def lost(given: Any, read: Any, path: str = "") -> Iterator[str]:
    """The places at which `read` has not what was given."""
    if isinstance(given, dict) and isinstance(read, dict):
        for key, value in given.items():
            if key in read:
                yield from lost(value, read[key], f"{path}.{key}")
            elif value is not None:  # which a model leaves out
                yield f"{path}.{key}"
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for number, (one, other) in enumerate(zip(given, read, strict=True)):
            yield from lost(one, other, f"{path}[{number}]")
    elif given != read:
        yield f"{path}: {given!r} became {read!r}"


def test_panels_ask_questions_have_units_and_lead_to_runbooks() -> None:
    names = {alert.name for alert in alerts.alerts()}
    linked = set()
    for board in BOARDS.values():
        chosen = {f"${variable.name}" for variable in board.variables} | {"$__rate_interval"}
        titles = [panel.title for panel in board.panels()]
        assert len(set(titles)) == len(titles)
        assert [title for title in (*titles, *(row.title for row in board.rows)) if not title.endswith("?")] == []
        for panel in board.panels():
            assert set(panel.alerts) <= names
            linked |= set(panel.alerts)
            assert panel.unit in {"s", "short", "percentunit", "bytes", "reqps"}
            for query in panel.queries:
                assert set(re.findall(r"\$\w+", query.expr)) <= chosen, panel.title
                assert query.legend or panel.kind != "timeseries"
    assert names - linked == set(), "these alerts are on no board"


def test_series_of_crews_lead_to_the_board_of_their_crew() -> None:
    boards = {board.uid: panels.render(board, "") for board in BOARDS.values()}
    assert all(link["tags"] == board["tags"] for board in boards.values() for link in board["links"])
    found = 0
    for board in BOARDS.values():
        for drawn in panels.render(board, "")["panels"]:
            for link in drawn.get("fieldConfig", {}).get("defaults", {}).get("links", []):
                uid, _, choices = link["url"].removeprefix("/d/").partition("?")
                chosen = dict(re.findall(r"var-(\w+)=\$\{__field\.labels\.(\w+)\}", choices))
                variables = {one["name"] for one in boards[uid]["templating"]["list"] if one["type"] == "query"}
                assert chosen == {name: name for name in variables} == {name: name for name in metrics.OF_CREW}
                for target in drawn["targets"]:
                    assert all(f"{{{{{name}}}}}" in target["legendFormat"] for name in chosen), drawn["title"]
                    found += 1
    assert found > 10


@pytest.mark.parametrize("name", BOARDS)
def test_no_panel_lies_on_another(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    ids = set()
    for panel in panels.render(BOARDS[name], "")["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < panels.WIDTH
        taken |= cells
        ids.add(panel["id"])
    assert len(ids) == len(list(BOARDS[name].panels())) + len(BOARDS[name].rows)


def test_every_alert_has_a_runbook_a_unit_test_and_a_line_in_the_page() -> None:
    names = [alert.name for alert in alerts.alerts()]
    assert len(set(names)) == len(names) > 20
    assert {book.stem for book in RUNBOOKS.glob("*.md")} == set(names)
    for name in names:
        headings = re.findall(r"^#+ (.+)$", (RUNBOOKS / f"{name}.md").read_text(), re.M)
        assert headings == [name, "Meaning", "Impact", "Diagnosis", "Mitigation"]
    tests = yaml.safe_load((ROOT / "charts" / "monitoring" / "alerts_test.yaml").read_text())["tests"]
    fires = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fires == set(names)
    listed = re.findall(
        r"^\| \[(\w+)\]\(runbooks/\1\.md\) \|.*\| (\w+) \|$", (ROOT / "docs/monitoring.md").read_text(), re.M
    )
    assert listed == [(alert.name, alert.severity) for alert in alerts.alerts()]


def test_no_threshold_is_left_open_or_has_no_place() -> None:
    for alert in alerts.alerts():
        texts = alert.expr + alert.description
        assert set(re.findall(r"<(\w+)>", texts)) - set(alerts.SLO) == set(alert.thresholds), alert.name
    assert "<" not in re.sub(r"[ =]<=? ", "", yaml.safe_dump(alerts.render()))


def test_bounds_of_time_are_those_that_histograms_measure() -> None:
    """Between two bounds a histogram knows nothing."""

    def bounds(histogram: Histogram) -> list[float]:
        return [bound for bound in histogram._upper_bounds if bound != float("inf")]

    values = yaml.safe_load((CHART / "values.yaml").read_text())["alerts"]["objective"]
    assert {"objective": values["share"], "seconds": values["seconds"]} == alerts.SLO
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["alerts"]["properties"]["objective"]
    assert schema["properties"]["seconds"]["enum"] == bounds(metrics.TASK_WAIT)
    (late,) = (alert for alert in alerts.alerts() if alert.name == "WatchbillHeartbeatsLate")
    assert late.thresholds["lateSeconds"] in bounds(metrics.HEARTBEAT_LATENESS)
