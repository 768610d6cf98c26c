"""Both charts under other programs: their own suites by helm-unittest, Helm 3 beside Helm 4, and kube-score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from e2e.cluster import chart_tools, machine
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.kubectl import Kubectl
from e2e.cluster.machine import ClusterError
from e2e.control_plane import charts
from e2e.control_plane.charts import CHART, CREW_CHART, Helm
from e2e.control_plane.test_chart import VALUES
from e2e.control_plane.test_chart_crew import VALUES as CREW_VALUES

RENDERED: Final[list[tuple[Path, dict[str, Any]]]] = [
    *((CHART, values) for values in VALUES.values() if "valkey" not in values),
    # A chart makes up another password each time, unless one is given.
    *((CHART, {**v, "valkey": {**v["valkey"], "password": "word"}}) for v in VALUES.values() if "valkey" in v),
    (CREW_CHART, CREW_VALUES),
]

REASONS: Final = {
    "container-resources": "a limit of CPU only slows down what could use idle time; memory has one",
    "container-ephemeral-storage-request-and-limit": "the root is read-only, and /tmp and Valkey's data have bounds",
    "container-image-pull-policy": "a tag is never built twice, and image.digest pins; image.pullPolicy can be Always",
    "container-security-context-user-group-id": "images bring their user, and OpenShift gives another",
    "pod-networkpolicy": "what pods may reach is for the cluster to know (docs/security.md)",
    "networkpolicy-targets-pod": "the operator makes the workers' pods, not the chart",
    "pod-probes": "Valkey is ready once it takes connections, for which its startup probe waits",
    "statefulset-has-servicename": "Valkey is one pod, and nobody asks for it by the pod's name",
}
"""The findings of kube-score that stay, each with the reason why."""


@pytest.fixture(scope="module")
def helm(control_plane: ControlPlane) -> Helm:
    return Helm(control_plane)


@pytest.fixture(scope="module")
def helm3(control_plane: ControlPlane) -> Helm:
    return Helm(control_plane, chart_tools.path("helm3"))


@pytest.mark.parametrize("chart", [CHART, CREW_CHART], ids=lambda chart: chart.name)
def test_the_suites_of_a_chart_pass(chart: Path) -> None:
    said = machine.run([chart_tools.path("helm-unittest"), "--strict", chart])
    assert "Charts:      1 passed, 1 total" in said
    assert "Tests:       0 passed" not in said


def test_helm_3_renders_what_helm_4_does(helm: Helm, helm3: Helm) -> None:
    assert "v3." in helm3("version")
    assert "v4." in helm("version")
    for chart, values in RENDERED:
        new, old = (
            charts.objects(one("template", "some", chart, "--namespace=default", values=values))
            for one in (helm, helm3)
        )
        assert new == old
    with pytest.raises(ClusterError, match="at '/agents/0': additional properties 'clas' not allowed"):
        helm3("template", "blog", CREW_CHART, values={"agents": [{"name": "a", "clas": "EchoAgent"}]})


def test_helm_3_installs_upgrades_and_removes_both(
    helm3: Helm, kubectl_here: Kubectl, namespace: str, crds: None
) -> None:
    where = f"--namespace={namespace}"
    values = {"crds": {"enabled": False}, "rbac": {"aggregate": False}, "watchNamespaces": [namespace]}
    for release, chart, given in (("watchbill", CHART, values), ("blog", CREW_CHART, CREW_VALUES)):
        helm3("install", release, chart, where, values=given)
        helm3("upgrade", release, chart, where, values=given)
    assert kubectl_here("get", "deployments,crews", where, "--output=name").split() == [
        "deployment.apps/watchbill",
        "crew.watchbill.dev/blog",
    ]
    assert kubectl_here.json("get", "crew", "blog", where)["spec"]["tasks"]["maxQueued"] == 10_000_000
    for release in ("blog", "watchbill"):
        helm3("uninstall", release, where)
    assert kubectl_here("get", "deployments,crews,heartbeats", where) == ""


def test_kube_score_finds_only_what_has_a_reason(helm: Helm) -> None:
    values = {"valkey": {"enabled": True}, "networkPolicy": {"enabled": True}}
    rendered = "---\n".join(
        helm("template", name, chart, "--namespace=default", values=given)
        for name, chart, given in (("watchbill", CHART, values), ("blog", CREW_CHART, CREW_VALUES))
    )
    # It exits with 1 for each finding that it takes for critical: those are the reasons' to say.
    words = [f"--ignore-test={check}" for check in REASONS]
    scored = json.loads(
        machine.run([chart_tools.path("kube-score"), "score", "-o", "json", *words, "-"], stdin=rendered)
    )
    found = {
        f"{one['object_name']}: {check['check']['id']}"
        for one in scored
        for check in one["checks"]
        if not check["skipped"] and check["grade"] < 10
    }
    assert found == set()
    assert sum(not check["skipped"] for one in scored for check in one["checks"]) > 30
