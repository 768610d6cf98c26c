"""What the doctor makes of what it has read. That it reads it is tested on real stores and a real API server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from watchbill.doctor import findings, quotas
from watchbill.doctor.findings import Severity
from watchbill.plan.quotas import Hard

pytestmark = pytest.mark.pure

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def crew(age: float, **status: Any) -> dict[str, Any]:
    made = (NOW - timedelta(seconds=age)).isoformat()
    return {"metadata": {"namespace": "a", "name": "b", "creationTimestamp": made}, "spec": {}, "status": status}


def test_a_crew_that_no_operator_takes_up_is_an_error_after_a_minute() -> None:
    (finding,) = findings.crew_findings([crew(61, observedGeneration=-1)], "", NOW)
    assert finding.severity is Severity.ERROR
    assert finding.message == "no operator has taken up crew a/b in 61 s"
    for fine in (crew(59, observedGeneration=-1), crew(61, observedGeneration=1)):
        (finding,) = findings.crew_findings([fine], "", NOW)
        assert finding.severity is Severity.OK


@pytest.mark.parametrize(
    ("image", "is_loose"),
    [
        ("worker", True),
        ("r.example:5000/worker", True),
        ("r.example:5000/worker:latest", True),
        ("r.example:5000/worker:1", False),
        ("worker@sha256:0", False),
        ("", False),
    ],
)
def test_an_image_needs_a_tag_that_stays(image: str, is_loose: bool) -> None:
    (finding,) = findings.crew_findings([crew(0, observedGeneration=1)], image, NOW)
    assert (finding.check == "image") is is_loose


def test_a_quota_is_used_up_in_whatever_units() -> None:
    hard = {"pods": "2", "limits.memory": "1Gi", "requests.cpu": "1", "services": "0", "secrets": "3"}
    used = {"pods": "2", "limits.memory": "1024Mi", "requests.cpu": "999m", "services": "0", "secrets": "2"}
    assert findings.used_up({"status": {"hard": hard, "used": used}}) == [
        "limits.memory (1024Mi of 1Gi)",
        "pods (2 of 2)",
        "services (0 of 0)",
    ]
    assert findings.used_up({}) == []


def test_a_quota_of_watchbill_is_used_up_where_a_crew_has_no_room_or_less_than_it_wants() -> None:
    hard = {"a": Hard(crews=2, queued=300_000, workers=5, setting="quotas.default.hard")}
    of = [crew(10, replicas=2), crew(9, replicas=2)]
    for number, one in enumerate(of):
        one["metadata"]["uid"] = str(number)

    def told() -> list[tuple[str, str]]:
        found = quotas.findings(of, lambda namespace: hard.get(namespace, Hard()))
        return [(finding.severity.value, finding.message) for finding in found]

    spent = "the quota of namespace a (quotas.default.hard) has nothing left of crews (2 of 2)"
    assert told() == [("warning", spent)]
    of[0]["spec"] = {"tasks": {"maxQueued": 250_000}}
    of[0]["status"]["scaling"] = of[1]["status"]["scaling"] = {"reason": "NamespaceQuota"}
    assert told() == [
        (
            "warning",
            "the quota of namespace a (quotas.default.hard) has nothing left of workers (4 of 5), "
            "queued (250000 of 300000)",
        )
    ]
    (finding,) = quotas.findings(of, hard.__getitem__)
    values = "quotas.default.hard.workers=10,quotas.default.hard.queued=600000"
    assert finding.fix == f"helm upgrade watchbill charts/watchbill --reuse-values --set {values}"
    del of[1:], of[0]["status"]["scaling"]
    assert told() == [("ok", "no quota of Watchbill's own is used up, in 1 namespaces with one")]
    assert quotas.findings(of, lambda _: Hard()) == []


def test_a_newer_crd_is_a_warning() -> None:
    finding = findings.crd_version("Crew", {"spec.a", "spec.b", "spec.c", "spec.d", "spec.e"}, {"spec.a"})
    assert finding.severity is Severity.WARNING
    assert finding.message.endswith("which ignores spec.b, spec.c, spec.d and 1 more")


@pytest.mark.parametrize("took", [0, 30])
@pytest.mark.parametrize(("seconds", "bad"), [(5, False), (-5, False), (5.6, True), (-5.6, True)])
def test_clocks_may_differ_a_little_and_an_answer_may_take_its_time(seconds: float, bad: bool, took: float) -> None:
    asked, answered = 1000, 1000 + took
    told = seconds + (answered if seconds > 0 else asked)
    finding = findings.skew("clock", "x", told, asked, answered)
    assert finding.is_bad is bad
    assert not findings.skew("clock", "x", told, asked, answered, uncertain=1).is_bad
    assert not findings.skew("clock", "x", asked + took / 2, asked, answered).is_bad
    if bad:
        assert f"the clock of x is 6 s {'ahead of' if seconds > 0 else 'behind'}" in finding.message


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [("", "", "all namespaces"), ("", "a,b", "a, b"), ("a, b", "b,c", "b"), ("a", "b", None)],
)
def test_two_releases_that_watch_the_same_namespace_are_an_error(one: str, other: str, both: str | None) -> None:
    found = findings.overlaps([operator("x/first", one), operator("y/second", other)])
    if both is None:
        assert found == []
        return
    assert found[0].severity is Severity.ERROR
    assert found[0].message == f"the releases x/first and y/second both watch {both}, and undo each other's work"
    assert found[0].fix.startswith("helm upgrade second charts/watchbill -n y ")


def operator(installation: str, watched: str) -> dict[str, Any]:
    env = [
        {"name": "WATCHBILL_INSTALLATION", "value": installation},
        {"name": "WATCHBILL_WATCH_NAMESPACES", "value": watched},
        {"name": "WATCHBILL_REDIS_URL", "valueFrom": {}},
    ]
    return {"spec": {"template": {"spec": {"containers": [{"name": "operator", "env": env}]}}}}
