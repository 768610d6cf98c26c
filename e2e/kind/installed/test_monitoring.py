"""A Prometheus in the cluster finds the operator and workers by the chart's monitors, and has its alerts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.cluster import machine, monitored
from e2e.kind.crews import crew
from e2e.kind.team import NAMESPACE, SOON, Team
from e2e.monitor.answers import Chosen, answer
from e2e.monitor.server import Prometheus
from monitoring import alerts
from monitoring.boards import BOARDS


@pytest.fixture
def prometheus(team: Team) -> Iterator[Prometheus]:
    """One of the cluster, which is gone after the test."""
    kubectl = team.cluster.kubectl
    if not team.cluster.kind_name:
        pytest.skip("this cluster has a Prometheus of its own, or none")
    try:
        monitored.put_in(team.cluster, namespace=NAMESPACE)
        with kubectl.port_forward(f"svc/{monitored.NAME}", monitored.PORT, namespace=monitored.NAMESPACE) as port:
            yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        kubectl("delete", "namespace", monitored.NAMESPACE, "--ignore-not-found", "--wait=false")
        for kind in ("clusterrolebinding", "clusterrole"):
            kubectl("delete", kind, f"watchbill-{monitored.NAME}", "--ignore-not-found")


def test_prometheus_scrapes_what_the_chart_names_and_answers_the_boards(
    team: Team, name: str, prometheus: Prometheus
) -> None:
    team.apply(crew(name, minReplicas=1))
    team.until_ready(name)
    (pod,) = team.until_pods(name, 1)

    def scraped() -> set[tuple[str, str]]:
        series = prometheus.query(f'up{{job="watchbill"}} == 1 or up{{pod="{pod["metadata"]["name"]}"}} == 1')
        return {(one.labels["job"], one.labels["namespace"]) for one in series}

    both = {("watchbill", NAMESPACE), ("watchbill-workers", NAMESPACE)}
    machine.until(lambda: scraped() == both, within=SOON, what="operator and worker are scraped", every=0.5)
    (worker,) = prometheus.query(f'up{{pod="{pod["metadata"]["name"]}"}}')
    assert worker.labels["watchbill_dev_crew"] == name

    def tells(board: str, title: str) -> bool:
        team.result(name, "hello")
        panel = next(panel for panel in BOARDS[board].panels() if panel.title == title)
        return bool(answer(BOARDS[board], panel, Chosen(NAMESPACE, name, "1m"), prometheus.query).series)

    for board, title in (("crew", "How do attempts end?"), ("operator", "How do reconciliations end?")):
        machine.until(lambda board=board, title=title: tells(board, title), within=SOON, what=title, every=1)  # type: ignore[misc]
    groups = prometheus.get("rules")["groups"]
    loaded = {rule["name"] for group in groups for rule in group["rules"] if rule["type"] == "alerting"}
    assert loaded == {alert.name for alert in alerts.alerts()}
    assert [rule["lastError"] for group in groups for rule in group["rules"] if "lastError" in rule] == []
    machine.until(
        lambda: len(prometheus.get("alertmanagers")["activeAlertmanagers"]) == 1, within=SOON, what="the Alertmanager"
    )
