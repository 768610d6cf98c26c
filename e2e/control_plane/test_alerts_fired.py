"""Every alert fires for its fault, reaches a webhook, and ends once the fault has: on a real Prometheus and
Alertmanager, over real workers, a real operator and a real store. The same Prometheus answers the boards' queries.

All faults that can stand side by side do, each in a crew of its own. PICTURES=folder has the boards drawn into it.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from e2e.cluster import machine, programs
from e2e.cluster.kubectl import Kubectl
from e2e.control_plane import operator_team, prometheus
from e2e.control_plane.charts import CHART, ROOT
from e2e.control_plane.faults import Faults, model
from e2e.control_plane.operator_team import Team
from e2e.control_plane.prometheus import Receiver
from e2e.control_plane.test_alert_rules import alerts, promtool
from e2e.monitor.answers import Answer, Chosen, answer
from e2e.monitor.pictures import drawn
from e2e.monitor.server import Prometheus, Series
from monitoring.boards import BOARDS
from monitoring.panels import Board, Panel

__all__ = ["promtool"]

team = operator_team.team
store = operator_team.store
installed = operator_team.installed

VALUES: Final = {
    "objective": {"share": 0.99, "seconds": 1},
    "rules": {
        "WatchbillWorkWaits": {"thresholds": {"critical": 2}},
        "WatchbillLeaseRenewalsLate": {"thresholds": {"late": 0}},
        "WatchbillTakeovers": {"thresholds": {"tasks": 0}},
        "WatchbillHeartbeatsLate": {"thresholds": {"lateSeconds": 1}},
        "WatchbillReconcilesFail": {"thresholds": {"failures": 0}},
    },
}
"""Thresholds that a test can reach, set as a user of the chart sets them."""
BEGUN: Final = (
    'watchbill_dead_letters_trimmed_total{crew="hurt"}',
    'watchbill_submissions_refused_total{crew="nobody"}',
    'watchbill_workers{crew="frail"} == 2',
)
"""Before there are these, no fault changes them."""
LEADERLESS: Final = "WatchbillOperatorLeaderless"
"""Fires before the operator is up, too."""
BY_THEMSELVES: Final = {
    "WatchbillReconcilesFail",
    LEADERLESS,
    "WatchbillHeartbeatsLate",
    "WatchbillStoreAway",
}
"""Alerts whose faults would hide others."""
AFTERWARDS: Final = {"WatchbillWaitBudgetBurnsFast", "WatchbillWaitBudgetBurnsSlowly"}
"""Only tasks that have begun count, so these fire when the crew that made them wait is well."""
LATER: Final = 180.0
"""Seconds: for what a machine without other work does in ten."""
PICTURES: Final = os.environ.get("PICTURES", "")
PICTURE_SECONDS: Final = 60.0
"""A picture shows more than so much, so that there is something to see."""
STEP_SECONDS: Final = 2.0
"""Between two points of a picture."""
UNANSWERED: Final = {"operator: Does background work fail?": "only a mistake of ours would make it fail"}
"""Panels without data → the reason."""
ANSWERED_LAST: Final = {
    "operator: Why do reconciliations fail?",
    "operator: How long do workers that leave take to end their tasks?",
    "fleet: Which crews are suspended?",
}
"""Panels that have data only when all others had some: what they show ends what others show."""


def hurried_rules() -> dict[str, Any]:
    command: list[str | Path] = [
        programs.path("helm"),
        "template",
        "some",
        CHART,
        "--show-only=templates/alerts.yaml",
        "--values=-",
    ]
    text = machine.run(command, stdin=json.dumps({"alerts": {"enabled": True, **VALUES}}))
    return prometheus.hurried(yaml.safe_load(text)["spec"])


@contextmanager
def ill(team: Team, kubectl: Kubectl, folder: Path) -> Iterator[tuple[Faults, Prometheus]]:
    """Crews with faults, their workers, and an operator, all of which Prometheus scrapes."""
    with ExitStack() as stack:
        receiver = Receiver()
        stack.callback(receiver.close)
        faults = Faults(team, kubectl, folder, receiver)
        faults.fill_store()
        faults.start_operator()
        targets = {"operator": [faults.operator_port], "workers": faults.worker_ports}
        watched = stack.enter_context(prometheus.running(folder, hurried_rules(), targets, receiver))
        faults.start_crews(stack.enter_context(model()))
        faults.start_workers(stack)
        faults.submit()
        for begun in BEGUN:
            machine.until(lambda begun=begun: watched.query(begun), within=LATER, what=f"{begun} is seen")  # type: ignore[misc]
        yield faults, watched


def until_fired(receiver: Receiver, names: Iterable[str], meanwhile: Callable[[], object] = lambda: None) -> None:
    wanted = set(names)
    deadline = time.monotonic() + LATER
    while missing := wanted - set(receiver.fired):
        assert time.monotonic() < deadline, f"these did not fire: {sorted(missing)}"
        meanwhile()
        time.sleep(0.2)
    print(f"{time.strftime('%X')} fired: {', '.join(sorted(wanted))}")


def fails(receiver: Receiver, reason: str) -> bool:
    """Returns whether the alert on reconciliations tells of this reason. It may have told of another one before."""
    return bool(receiver.firing.get("WatchbillReconcilesFail", {}).get("labels", {}).get("reason") == reason)


class Panels:
    """The panels of all boards that had no data whenever they were asked for."""

    def __init__(self, watched: Prometheus, namespace: str) -> None:
        self._watched = watched
        self._crews = [Chosen(namespace, crew, "20s") for crew in ("hurt", "well")]
        self._left = {
            f"{name}: {panel.title}": (board, panel) for name, board in BOARDS.items() for panel in board.panels()
        }

    def left(self) -> set[str]:
        """Asks for them once more. Returns those that have none now, either."""
        for name, (board, panel) in list(self._left.items()):
            if any(answer(board, panel, crew, self._watched.query).series for crew in self._crews):
                del self._left[name]
        return set(self._left)

    def draw(self, folder: Path, start: float) -> None:
        """Writes each board as a picture, from the first fault on. A panel shows that of the two crews of which
        there is more."""
        end = time.time()
        prometheus, namespace = self._watched, self._crews[0].namespace

        def ask(expr: str) -> list[Series]:
            return prometheus.between(expr, start, end, STEP_SECONDS)

        def one(board: Board, panel: Panel) -> Answer:
            of = prometheus.query if panel.kind != "timeseries" else ask
            found = [answer(board, panel, crew, of) for crew in self._crews]
            chosen = max(
                found, key=lambda one: max((value for _, s in one.series for _, value in s.points), default=-1)
            )
            return replace(chosen, series=[(name.replace(namespace, "team"), one) for name, one in chosen.series])

        folder.mkdir(exist_ok=True)
        for name, board in BOARDS.items():
            given = {panel.title: one(board, panel) for panel in board.panels()}
            (folder / f"{name}.svg").write_text(drawn(board, given, start, end))

    def until_left(self, *names: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Waits until no others are left."""
        deadline = time.monotonic() + LATER
        while missing := self.left() - set(names):
            assert time.monotonic() < deadline, f"these had no data: {sorted(missing)}"
            meanwhile()
            time.sleep(0.2)


@pytest.mark.timeout(1200)
def test_every_alert_fires_for_its_fault_and_ends_with_it(
    team: Team, kubectl: Kubectl, promtool: Path, tmp_path: Path
) -> None:
    rules = alerts(yaml.safe_load((CHART / "files" / "rules.yaml").read_text()))
    with ill(team, kubectl, tmp_path) as (faults, watched):
        began = time.time()
        told, panels = faults.receiver, Panels(watched, team.namespace)
        until_fired(told, {"WatchbillStalled"})
        until_fired(told, {"WatchbillLeaseRenewalsLate"}, faults.stand_still)
        # It looks no further back than 20 s, in which a busy machine may get to nothing.
        others = {name for name in panels.left() if "lose their leases" not in name}
        panels.until_left(*others, meanwhile=faults.stand_still)
        faults.kill_a_worker_with_a_task()
        until_fired(told, set(rules) - BY_THEMSELVES - AFTERWARDS, faults.go_on)
        panels.until_left(*ANSWERED_LAST, *UNANSWERED, meanwhile=faults.go_on)
        while PICTURES and time.time() < began + PICTURE_SECONDS:
            faults.go_on()
            time.sleep(0.2)

        def is_forbidden() -> bool:
            panels.left()  # What the suspension ends is seen for 20 s, and a busy machine's alert may come later.
            return fails(told, "api-server-forbids")

        faults.suspend()
        faults.forbid_statuses(forbidden=True)
        machine.until(is_forbidden, within=LATER, what="a missing right is told")
        panels.until_left(*UNANSWERED)
        if PICTURES:
            time.sleep(3 * STEP_SECONDS)  # so that what came last is more than a point
            panels.draw(Path(PICTURES), began)
        faults.forbid_statuses(forbidden=False)
        machine.until(lambda: LEADERLESS not in told.firing, within=LATER, what="the operator is seen")
        faults.operator.stop()
        machine.until(lambda: LEADERLESS in told.firing, within=LATER, what="the operator is missed")
        faults.operator.go_on()
        until_fired(told, {"WatchbillHeartbeatsLate"})
        faults.mend_store()
        team.store.pause()
        until_fired(told, {"WatchbillStoreAway"})
        team.store.resume()

        faults.mend()
        until_fired(told, AFTERWARDS)
        machine.until(lambda: not told.firing, within=LATER, what="all alerts have ended")
    assert set(told.fired) == set(rules)
    for name, alert in told.fired.items():
        texts = alert["annotations"]
        assert (ROOT / texts["runbook_url"]).is_file(), name
        assert not re.search(r"\{\{|<|%!|no value", texts["summary"] + texts["description"]), texts
