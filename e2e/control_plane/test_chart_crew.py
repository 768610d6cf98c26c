"""The chart of a crew: a release is the crew of its values, at the API server, and bad values are refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.kubectl import Kubectl, KubectlError
from e2e.cluster.machine import ClusterError
from e2e.control_plane import charts
from e2e.control_plane.charts import CREW_CHART, Helm
from e2e.control_plane.manifests import accepted

AGENTS = [
    {"name": "research", "class": "EchoAgent", "config": {"large": 10_000_000}},
    {"name": "write", "class": "EchoAgent", "prompt": "{{ .Values.crew }} {steps.research}\n"},
]
WEBHOOK = {"urlFrom": {"secretKeyRef": {"name": "hook", "key": "url"}}}
VALUES: dict[str, Any] = {
    "agents": AGENTS,
    "executionMode": "flow",
    "flowRelations": [{"source": ["research"], "target": ["write"]}],
    "tasks": {"maxQueued": 10_000_000},
    "workers": {"image": "a.example/blog:1", "envFrom": [{"prefix": "X_", "secretRef": {"name": "openai"}}]},
    "delivery": [{"name": "team", "webhook": WEBHOOK}],
    "podDisruptionBudget": {"enabled": True, "maxUnavailable": 1},
    "heartbeats": {
        "morning": {"schedule": "0 7 * * 1-5", "timeZone": "Europe/Berlin"},
        "hourly": {"intervalSeconds": 3600, "agent": "research"},
    },
}
EVERY_FIELD = accepted.CREWS["every field"]["spec"]


@pytest.fixture(scope="module")
def helm(control_plane: ControlPlane, crds: None) -> Helm:
    return Helm(control_plane)


@pytest.fixture
def released(helm: Helm, namespace: str) -> Iterator[str]:
    """A namespace with the release `blog` of VALUES."""
    helm("install", "blog", CREW_CHART, f"--namespace={namespace}", values=VALUES)
    try:
        yield namespace
    finally:
        helm("uninstall", "blog", f"--namespace={namespace}", "--ignore-not-found")


def test_a_release_is_the_crew_of_its_values_with_its_heartbeats(
    helm: Helm, kubectl_here: Kubectl, released: str
) -> None:
    where = f"--namespace={released}"
    found = kubectl_here.json("get", "crew", "blog", where)
    spec = found["spec"]
    assert spec["agents"] == AGENTS
    assert spec["flowRelations"] == VALUES["flowRelations"]
    assert spec["tasks"]["maxQueued"] == 10_000_000
    assert spec["workers"]["image"] == "a.example/blog:1"
    assert spec["workers"]["envFrom"] == VALUES["workers"]["envFrom"]
    assert spec["delivery"][0]["webhook"] == WEBHOOK
    labels = {f"app.kubernetes.io/{key}": "blog" for key in ("name", "instance")}
    assert labels.items() <= found["metadata"]["labels"].items()
    heartbeats = {beat["metadata"]["name"]: beat for beat in kubectl_here.items("heartbeats", where)}
    assert set(heartbeats) == {"blog-morning", "blog-hourly"}
    assert {beat["spec"]["crewRef"]["name"] for beat in heartbeats.values()} == {"blog"}
    assert heartbeats["blog-morning"]["spec"]["schedule"] == "0 7 * * 1-5"
    assert all(labels.items() <= beat["metadata"]["labels"].items() for beat in heartbeats.values())

    changed = {**VALUES, "maxParallelTasks": 3, "heartbeats": {**VALUES["heartbeats"], "hourly": None}}
    helm("upgrade", "blog", CREW_CHART, where, values=changed)
    assert kubectl_here.json("get", "crew", "blog", where)["spec"]["maxParallelTasks"] == 3
    assert kubectl_here("get", "heartbeats", where, "--output=name") == "heartbeat.watchbill.dev/blog-morning\n"

    helm("uninstall", "blog", where)
    assert kubectl_here("get", "crews,heartbeats", where) == ""


def test_its_notes_make_the_secrets_that_are_not_there(helm: Helm, kubectl_here: Kubectl, released: str) -> None:
    where = f"--namespace={released}"
    notes = helm("get", "notes", "blog", where)
    assert "(hook, openai, watchbill-redis)" in notes
    commands = [line.partition("   #")[0].split() for line in notes.splitlines() if "create secret" in line]
    for _, *words in commands:
        kubectl_here(*words)
    helm("upgrade", "blog", CREW_CHART, where, values=VALUES)
    assert "Secrets" not in helm("get", "notes", "blog", where)


def test_every_field_of_a_crew_reaches_it_as_it_is(helm: Helm, kubectl_here: Kubectl, tmp_path: Path) -> None:
    rendered = helm("template", "some", CREW_CHART, "--namespace=default", values={**EVERY_FIELD, **_NAMED})
    found = charts.objects(rendered)
    assert found["Crew", "other"]["spec"] == EVERY_FIELD
    assert found["Crew", "other"]["metadata"]["labels"]["team"] == "press"
    assert found["Crew", "other"]["metadata"]["annotations"] == {"a.example/b": "c"}
    assert charts.conform(rendered, charts.write_schemas(kubectl_here, tmp_path))["valid"] == len(found) == 3
    answer = kubectl_here("apply", "--dry-run=server", "--server-side", "--filename=-", stdin=rendered)
    assert answer.count("(server dry run)") == 3
    assert "0 chart(s) failed" in helm("lint", "--strict", CREW_CHART, values={**EVERY_FIELD, **_NAMED})


_NAMED = {
    "crew": {
        "name": "other",
        "labels": {"team": "press", "app.kubernetes.io/name": "taken"},
        "annotations": {"a.example/b": "c"},
    },
    "heartbeats": {"beat": {"intervalSeconds": 60}},
    "podDisruptionBudget": {"enabled": True},
}


def test_bad_values_are_refused_by_name_before_anything_is_sent(helm: Helm) -> None:
    bad = {
        "agents": [{"name": "a", "clas": "EchoAgent"}],
        "executionMode": "flows",
        "workers": {"maxReplicas": "many"},
        "heartbeats": {"x": {"every": 5}},
    }
    with pytest.raises(ClusterError) as caught:
        helm("template", "blog", CREW_CHART, values=bad)
    for said in (
        "at '/agents/0': additional properties 'clas' not allowed",
        "at '/executionMode': value must be one of 'sequential', 'parallel', 'flow', 'loop'",
        "at '/workers/maxReplicas': got string, want integer",
        "at '/heartbeats/x': additional properties 'every' not allowed",
    ):
        assert said in str(caught.value)
    with pytest.raises(ClusterError, match="at '/agents': minItems"):
        helm("template", "blog", CREW_CHART)
    long = {**VALUES, "heartbeats": {"b" * 48: {"intervalSeconds": 1}}}
    with pytest.raises(ClusterError, match=r"heartbeats\.b+: its object would be called .* longer than 52"):
        helm("template", "blog", CREW_CHART, values=long)
    with pytest.raises(ClusterError, match=r"crew\.name: .* longer than 52"):
        helm("template", "r" * 53, CREW_CHART, values=VALUES)


def test_rules_that_join_fields_are_the_api_servers(helm: Helm, kubectl_here: Kubectl, namespace: str) -> None:
    values = {**VALUES, "flowRelations": [{"source": ["research"], "target": ["nobody"]}]}
    with pytest.raises(ClusterError, match="flowRelations cite an agent that is not in this crew"):
        helm("install", "blog", CREW_CHART, f"--namespace={namespace}", values=values)
    # As the README says.
    rendered = helm("template", "blog", CREW_CHART, f"--namespace={namespace}", values=values)
    with pytest.raises(KubectlError, match="flowRelations cite an agent that is not in this crew"):
        kubectl_here("apply", "--dry-run=server", "--filename=-", stdin=rendered)


def test_the_example_in_its_readme_installs(helm: Helm, namespace: str) -> None:
    _, _, rest = (CREW_CHART / "README.md").read_text().partition("```yaml\n")
    values = yaml.safe_load(rest.partition("```")[0])
    assert "STATUS: deployed" in helm("install", "blog", CREW_CHART, f"--namespace={namespace}", values=values)
