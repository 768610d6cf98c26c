"""CRDs in use: scaling, status, columns, several managers."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from e2e.cluster.kubectl import Kubectl, KubectlError
from e2e.control_plane.crds_server import NAMES, Server, objects, place, read
from e2e.control_plane.manifests import accepted, as_yaml, changed, crew, heartbeat, scheduled

# ── subresources


EXTERNAL = {"spec.workers.scaling.mode": "External"}


def test_workers_are_scaled_by_kubectl_when_the_crew_says_so(
    server: Server, kubectl_here: Kubectl, namespace: str
) -> None:
    server.create(crew(EXTERNAL), namespace)
    where = ("crew/blog-team", f"--namespace={namespace}")
    assert kubectl_here.json("get", "--subresource=scale", *where)["spec"] == {"replicas": 1}

    kubectl_here("scale", "--replicas=5", *where)
    found = kubectl_here.json("get", *where)
    assert (found["spec"]["workers"]["replicas"], found["metadata"]["generation"]) == (5, 2)
    with pytest.raises(KubectlError, match=r"spec\.workers\.replicas.* less than or equal to 1000"):
        kubectl_here("scale", "--replicas=1001", *where)

    status = {"observedGeneration": 2, "replicas": 3, "selector": "watchbill.dev/crew=blog-team"}
    kubectl_here("patch", "--subresource=status", "--type=merge", *where, "--patch", json.dumps({"status": status}))
    scale = kubectl_here.json("get", "--subresource=scale", *where)
    assert scale["status"] == {"replicas": 3, "selector": "watchbill.dev/crew=blog-team"}


def test_kubectl_scale_says_why_it_is_refused_where_the_operator_scales(
    server: Server, kubectl_here: Kubectl, namespace: str
) -> None:
    server.create(crew(), namespace)
    with pytest.raises(KubectlError, match=r"spec\.workers\.replicas: .* while scaling\.mode is Auto"):
        kubectl_here("scale", "crew/blog-team", "--replicas=5", f"--namespace={namespace}")


@pytest.mark.parametrize(
    ("before", "after", "taken"),
    [
        ({}, {"replicas": 2}, False),
        ({"scaling": {"mode": "Auto"}, "replicas": 4}, {}, False),
        ({"replicas": 4}, {"replicas": 4, "minReplicas": 1}, True),
        ({}, {"scaling": {"mode": "External"}, "replicas": 2}, True),
        ({"scaling": {"mode": "External"}, "replicas": 2}, {"scaling": {"mode": "External"}, "replicas": 3}, True),
        ({"scaling": {"mode": "External"}, "replicas": 2}, {"scaling": {"mode": "Auto"}}, True),
    ],
)
def test_replicas_change_only_where_they_count(
    server: Server, namespace: str, before: dict[str, Any], after: dict[str, Any], taken: bool
) -> None:
    stored = server.create(crew({"spec.workers": before}), namespace)
    wanted = changed(stored.body, {"spec.workers": after})
    answer = server.send("PUT", place(crew(), namespace), wanted)
    assert answer.code == (200 if taken else 422), answer.message
    assert answer.fields() == (set() if taken else {"spec.workers.replicas"})


READY = {
    "type": "Ready",
    "status": "True",
    "reason": "Available",
    "message": "all is in place",
    "lastTransitionTime": "2026-01-02T03:04:05Z",
    "observedGeneration": 1,
}


@pytest.mark.parametrize("manifest", [crew(), heartbeat()], ids=["crew", "heartbeat"])
def test_status_is_written_only_as_status(server: Server, namespace: str, manifest: dict[str, Any]) -> None:
    made = server.create({**manifest, "status": {"observedGeneration": 7, "conditions": [READY]}}, namespace)
    assert (made.code, made.body["status"]) == (201, {"observedGeneration": -1})

    path, patch = place(manifest, namespace), {"status": {"observedGeneration": 1, "conditions": [READY]}}
    through_the_front = server.send("PATCH", path, patch, as_="merge-patch+json")
    assert through_the_front.body["status"] == {"observedGeneration": -1}

    written = server.send("PATCH", f"{path}/status", {**patch, "spec": {"agents": []}}, as_="merge-patch+json")
    assert written.code == 200, written.message
    assert written.body["status"] == patch["status"]
    assert written.body["spec"] == made.body["spec"]
    assert written.body["metadata"]["generation"] == 1


@pytest.mark.parametrize(
    ("status", "name"),
    [
        ({"conditions": [{**READY, "status": "Maybe"}]}, "status.conditions[0].status"),
        ({"conditions": [{**READY, "reason": "not one word"}]}, "status.conditions[0].reason"),
        ({"conditions": [{**READY, "reason": ""}]}, "status.conditions[0].reason"),
        ({"conditions": [{**READY, "lastTransitionTime": "now"}]}, "status.conditions[0].lastTransitionTime"),
        ({"conditions": [{k: v for k, v in READY.items() if k != "message"}]}, "status.conditions[0].message"),
        ({"conditions": [READY, READY]}, "status.conditions[1]"),
        ({"replicas": -1}, "status.replicas"),
        ({"waiting": "many"}, "status.waiting"),
    ],
)
def test_a_status_has_a_form_too(server: Server, namespace: str, status: dict[str, Any], name: str) -> None:
    server.create(crew(), namespace)
    path = f"{place(crew(), namespace)}/status"
    answer = server.send("PATCH", path, {"status": status}, as_="merge-patch+json")
    assert (answer.code, answer.fields()) == (422, {name})


# ── what kubectl makes of them


def row(printed: str) -> dict[str, str]:
    """Column → value of the one row that kubectl printed."""
    head, only = printed.splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", head)]
    ends = [*starts[1:], None]
    return {head[a:b].strip(): only[a:b].strip() for a, b in zip(starts, ends, strict=True)}


def test_columns_show_what_is_known(server: Server, kubectl_here: Kubectl, namespace: str) -> None:
    status = {"observedGeneration": 1, "conditions": [READY]}
    for manifest, more in (
        (
            crew(),
            {"replicas": 3, "waiting": 2, "running": 0, "dead": 1, "delayed": 4, "agents": 2, "revision": "abcd1234"},
        ),
        (
            scheduled("0 9 * * 1-5", "Europe/Berlin"),
            {"lastFireTime": "2020-01-02T08:00:00Z", "nextFireTime": "2030-01-02T08:00:00Z"},
        ),
    ):
        server.create(manifest, namespace)
        path = f"{place(manifest, namespace)}/status"
        assert server.send("PATCH", path, {"status": {**status, **more}}, as_="merge-patch+json").code == 200

    shown = row(kubectl_here("get", "crew", f"--namespace={namespace}"))
    assert re.fullmatch(r"(\d+m)?\d*s?", shown.pop("AGE"))
    assert shown == {
        "NAME": "blog-team",
        "READY": "True",
        "MODE": "sequential",
        "WORKERS": "3",
        "WAITING": "2",
        "RUNNING": "0",
        "DEAD": "1",
    }
    wide = row(kubectl_here("get", "crew", f"--namespace={namespace}", "--output=wide"))
    assert {name: wide[name] for name in ("DELAYED", "SUSPEND", "AGENTS", "REVISION", "REASON")} == {
        "DELAYED": "4",
        "SUSPEND": "false",
        "AGENTS": "2",
        "REVISION": "abcd1234",
        "REASON": "Available",
    }
    shown = row(kubectl_here("get", "hb", f"--namespace={namespace}"))
    assert re.fullmatch(r"(\d+m)?\d*s?", shown.pop("AGE"))
    assert re.fullmatch(r"\d+y\d*d?", shown.pop("LAST"))
    assert shown == {
        "NAME": "morning",
        "CREW": "blog-team",
        "SCHEDULE": "0 9 * * 1-5",
        "INTERVAL": "",
        "SUSPEND": "false",
        "RESULT": "",
        "NEXT": "2030-01-02T08:00:00Z",
        "READY": "True",
    }


def test_kubectl_waits_for_ready_and_is_not_told_too_early(
    server: Server, kubectl_here: Kubectl, namespace: str
) -> None:
    server.create(crew(), namespace)
    wait = ("wait", "crew/blog-team", f"--namespace={namespace}", "--for=condition=Ready")
    with pytest.raises(KubectlError, match="timed out"):
        kubectl_here(*wait, "--timeout=2s")
    patch = {"status": {"observedGeneration": 1, "conditions": [READY]}}
    server.send("PATCH", f"{place(crew(), namespace)}/status", patch, as_="merge-patch+json")
    kubectl_here(*wait, "--timeout=120s")


@pytest.mark.parametrize("words", ["crew,hb", "crews,heartbeats", "crew.watchbill.dev,heartbeat", "watchbill"])
def test_every_name_of_theirs_works(server: Server, kubectl_here: Kubectl, namespace: str, words: str) -> None:
    server.create(crew(), namespace)
    server.create(heartbeat(), namespace)
    found = kubectl_here("get", words, f"--namespace={namespace}", "--output=name").split()
    assert found == ["crew.watchbill.dev/blog-team", "heartbeat.watchbill.dev/morning"]


@pytest.mark.parametrize("manifest", [accepted.CREWS["every field"], accepted.HEARTBEATS["every field"]])
def test_what_kubectl_prints_can_be_read_back(
    server: Server, kubectl_here: Kubectl, namespace: str, manifest: dict[str, Any]
) -> None:
    # not apply, which takes a null in a config for the wish to have nothing there
    kubectl_here("create", f"--namespace={namespace}", "--filename=-", stdin=as_yaml(manifest))
    path = f"{place(manifest, namespace)}/status"
    server.send("PATCH", path, {"status": {"conditions": [READY]}}, as_="merge-patch+json")
    where = (manifest["kind"], manifest["metadata"]["name"], f"--namespace={namespace}", "--show-managed-fields")
    for form in ("yaml", "json"):
        found = read(kubectl_here("get", *where, f"--output={form}"))
        assert found.spec == read(as_yaml(manifest)).spec
        assert (found.metadata.namespace, found.metadata.labels) == (namespace, manifest["metadata"]["labels"])


def test_kubectl_explains_every_field(kubectl_here: Kubectl) -> None:
    explained = set()
    for name in NAMES:
        found = kubectl_here.json("get", "crd", name)["spec"]
        kind = found["names"]["singular"]
        for path, fields in objects(found["versions"][0]["schema"]["openAPIV3Schema"], kind):
            said = kubectl_here("explain", path)
            assert "no description" not in said, path
            # its name and type on a line, what it is below
            for one in fields:
                assert re.search(rf"^  {one}\t<.*>.*\n(  enum: .*\n)?    \S", said, re.MULTILINE), f"{path}.{one}"
            explained.add(path)
    assert {"crew.spec.agents", "crew.spec.workers.scaling", "heartbeat.spec.crewRef"} <= explained


# ── server-side apply by several


def applied(*agents: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {**crew(), "spec": {"agents": list(agents), **spec}}


def test_two_managers_have_agents_of_their_own_in_one_crew(server: Server, namespace: str) -> None:
    first = applied({"name": "a", "class": "EchoAgent", "tools": ["x"]}, sharedTools=["one"])
    second = applied({"name": "b", "class": "EchoAgent"}, {"name": "a", "tools": ["y"]}, sharedTools=["two"])
    assert server.apply(first, namespace, "one").code == 201
    both = server.apply(second, namespace, "two")
    assert both.code == 200, both.message
    agents = {agent["name"]: agent for agent in both.body["spec"]["agents"]}
    assert {name: agent.get("class") for name, agent in agents.items()} == {"a": "EchoAgent", "b": "EchoAgent"}
    assert set(agents["a"]["tools"]) == {"x", "y"}
    assert set(both.body["spec"]["sharedTools"]) == {"one", "two"}

    answer = server.apply(applied({"name": "a", "class": "Other"}), namespace, "two")
    assert answer.code == 409
    assert '.spec.agents[name="a"].class' in answer.message

    # what a manager no longer mentions goes, and only that
    less = server.apply(applied({"name": "a", "timeoutSeconds": 5}), namespace, "two")
    assert less.body["spec"]["agents"] == [{"name": "a", "class": "EchoAgent", "tools": ["x"], "timeoutSeconds": 5}]
    assert less.body["spec"]["sharedTools"] == ["one"]


def test_relations_are_one_managers(server: Server, namespace: str) -> None:
    agents = [{"name": name, "class": "EchoAgent"} for name in "ab"]
    there, back = ({"source": [s], "target": [t]} for s, t in ("ab", "ba"))
    assert server.apply(applied(*agents, executionMode="flow", flowRelations=[there]), namespace, "one").code == 201
    answer = server.apply(applied({"name": "a"}, flowRelations=[back]), namespace, "two")
    assert (answer.code, ".spec.flowRelations" in answer.message) == (409, True)


def test_conditions_of_several_writers_stand_side_by_side(server: Server, namespace: str) -> None:
    server.create(crew(), namespace)
    base = {key: crew()[key] for key in ("apiVersion", "kind", "metadata")}
    for kind in ("Ready", "Paused"):
        content = {**base, "status": {"conditions": [{**READY, "type": kind}]}}
        path = f"{place(crew(), namespace)}/status?fieldManager={kind.lower()}"
        assert server.send("PATCH", path, content, as_="apply-patch+yaml").code == 200
    found = server.send("GET", place(crew(), namespace)).body["status"]["conditions"]
    assert [condition["type"] for condition in found] == ["Ready", "Paused"]
