"""`watchbill doctor` on a real API server, run as the chart's `helm test` runs it, and as an administrator.

Each fault is provoked once. What stores are examined for is in tests/topologies/test_doctor_store.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from bench.clock import MISSING, Clock, library

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.kubectl import Kubectl
from e2e.control_plane import access
from e2e.control_plane.charts import CHART, Found, Helm, doctor
from e2e.control_plane.crds_server import CRDS
from e2e.control_plane.manifests import crew
from e2e.control_plane.operator_process import Store, kept_lease, operator

VALUES = {"crds": {"enabled": False}, "rbac": {"aggregate": False}}


class Release(NamedTuple):
    """An installed chart, and what its test pod runs."""

    namespace: str
    account: Path
    """A kubeconfig of the operator's ServiceAccount."""
    arguments: list[str]
    environment: dict[str, str]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    made = Store(tmp_path_factory.mktemp("store"))
    made.start()
    try:
        yield made
    finally:
        made.kill()


@pytest.fixture
def release(
    control_plane: ControlPlane, crds: None, kubectl_here: Kubectl, namespace: str, store: Store
) -> Iterator[Release]:
    helm = Helm(control_plane)
    helm("install", "watchbill", CHART, f"--namespace={namespace}", values={**VALUES, "watchNamespaces": [namespace]})
    try:
        hooks = yaml.safe_load_all(helm("get", "hooks", "watchbill", f"--namespace={namespace}"))
        (pod,) = [hook for hook in hooks if hook]
        assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
        (container,) = pod["spec"]["containers"]
        given = {entry["name"]: entry.get("value", "") for entry in container["env"]}
        account = control_plane.service_account_kubeconfig(namespace, pod["spec"]["serviceAccountName"])
        access.until_known(control_plane, namespace)
        yield Release(namespace, account, container["args"], {**given, "WATCHBILL_REDIS_URL": store.url})
    finally:
        helm("uninstall", "watchbill", f"--namespace={namespace}")


def bad(found: Found) -> list[tuple[str, str]]:
    return [
        (f["check"], f["severity"]) for some in found.values() for f in some if f["severity"] in ("error", "warning")
    ]


def test_helm_test_finds_an_install_sound_once_an_operator_leads_and_names_the_rights_that_it_lacks(
    release: Release, kubectl_here: Kubectl, store: Store, tmp_path: Path
) -> None:
    def examined() -> tuple[int, Found]:
        return doctor(release.account, release.arguments, release.environment)

    code, found = examined()
    assert (code, bad(found)) == (1, [("leader", "error")])
    assert found["leader"][0]["message"].endswith("no operator has ever led")
    settings = {"watch_namespaces": release.namespace, "lease": release.environment["WATCHBILL_LEASE"]}
    with operator(release.account, store.url, tmp_path, **settings) as running:
        running.start()

        def sound() -> Found:
            code, found = examined()
            return found if (code, bad(found)) == (0, []) else {}

        found = machine.until(sound, within=120, what="an operator leads")
        running.terminate()
    checks = ("crds", "rbac", "leader", "store", "acl", "crews", "clock")
    assert {found[check][0]["severity"] for check in checks} == {"ok"}
    # It may not read these, and needs to do nothing with them.
    skipped = {check for check, (first, *_) in found.items() if first["severity"] == "skipped"}
    assert skipped == {"overlap", "pods", "resourcequotas"}

    def leaderless() -> str:
        code, found = examined()
        return found["leader"][0]["message"] if (code, bad(found)) == (1, [("leader", "error")]) else ""

    told = machine.until(leaderless, within=120, what="nobody leads")
    assert told.startswith("nobody holds the Lease") or (kept_lease(running) and " has not renewed the " in told), told

    role = f"role/watchbill-{release.namespace}"
    where = f"--namespace={release.namespace}"
    rules = kubectl_here.json("get", role, where)["rules"]
    for rule in rules:
        if rule["resources"] == ["deployments"]:
            rule["verbs"].remove("patch")
    rules = [rule for rule in rules if rule["resources"] != ["configmaps"]]
    kubectl_here("patch", role, where, "--type=merge", "--patch", json.dumps({"rules": rules}))
    account = f"{release.namespace}/watchbill"

    def lacking() -> dict[str, str]:
        code, found = examined()
        assert code == 1
        said = {finding["severity"]: finding["message"] for finding in found["rbac"]}
        return said if len(said) == 2 else {}

    said = machine.until(lacking, within=180, what="the rights are gone")
    assert said == {
        "error": f"ServiceAccount {account} may not patch deployments.apps in {release.namespace}",
        "warning": f"ServiceAccount {account} may not get configmaps in {release.namespace}, so what changes there "
        "replaces no workers",
    }


def test_an_administrator_is_told_of_crews_images_quotas_and_old_crds(
    control_plane: ControlPlane, release: Release, kubectl_here: Kubectl
) -> None:
    where = f"--namespace={release.namespace}"
    stuck, loose = crew(name="stuck"), crew({"spec.workers.image": "a.example/blog"}, name="loose")
    kubectl_here.apply(stuck, loose, namespace=release.namespace)
    for name, conditions in {"stuck": [STALLED], "loose": []}.items():
        status = json.dumps({"status": {"observedGeneration": 1, "conditions": conditions}})
        kubectl_here("patch", "crew", name, where, "--subresource=status", "--type=merge", "--patch", status)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pulling", "labels": {"watchbill.dev/crew": "loose"}},
        "spec": {"containers": [{"name": "worker", "image": "a.example/blog"}]},
    }
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small"},
        "spec": {"hard": {"count/configmaps": "1", "pods": "10"}},
    }
    kubectl_here.apply(pod, quota, namespace=release.namespace)
    kubectl_here(
        *("patch", "pod", "pulling", where, "--subresource=status", "--type=merge", "--patch", json.dumps(PULLING))
    )
    used = ("get", "quota", "small", where, "--output=jsonpath={.status.used.count/configmaps}")
    machine.until(lambda: kubectl_here(*used) == "1", within=180, what="the quota is counted")
    environment = {**release.environment, "WATCHBILL_WORKER_IMAGE": "a.example/worker:1"}
    code, found = doctor(control_plane.kubeconfig, ["doctor"], environment)
    assert code == 1
    stalled = [finding for finding in found["crews"] if "Stalled" in finding["message"]]
    assert [finding["message"] for finding in stalled] == [
        f"crew {release.namespace}/stuck is Stalled: RedisSecretMissing: There is no Secret"
    ]
    assert stalled[0]["fix"] == f"kubectl describe crew stuck -n {release.namespace}"
    loose_image, pulling = found["image"]
    assert f"the workers' image a.example/blog of crew {release.namespace}/loose" in loose_image["message"]
    assert "has no image a.example/blog (ImagePullBackOff: no such host)" in pulling["message"]
    (quotas,) = found["quotas"]
    assert quotas["message"] == f"quota {release.namespace}/small has nothing left of count/configmaps (1 of 1)"
    assert found["rbac"][0]["severity"] == "skipped"
    kubectl_here(*quotas["fix"].split()[1:])


def test_an_older_crd_is_told_by_the_fields_that_it_lacks(release: Release, kubectl_here: Kubectl) -> None:
    field = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/maxParallelTasks"
    older = json.dumps([{"op": "remove", "path": field}])
    kubectl_here("patch", "crd", "crews.watchbill.dev", "--type=json", "--patch", older)

    def told() -> list[str]:
        _, found = doctor(release.account, release.arguments, release.environment)
        return [finding["message"] for finding in found["crds"] if finding["severity"] == "error"]

    try:
        said = machine.until(told, within=180, what="the API server says which fields it knows")
    finally:
        kubectl_here("apply", "--filename", CRDS)
    assert said == ["the CRD of Crew is older than this program: it lacks spec.maxParallelTasks"]


STALLED = {
    "type": "Stalled",
    "status": "True",
    "reason": "RedisSecretMissing",
    "message": "There is no Secret.",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}
PULLING = {
    "status": {
        "containerStatuses": [
            {
                "name": "worker",
                "image": "a.example/blog",
                "imageID": "",
                "ready": False,
                "restartCount": 0,
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such host"}},
            }
        ]
    }
}


@pytest.mark.skipif(library() is None, reason=MISSING)
def test_a_machine_whose_clock_is_wrong_is_told_so(release: Release, tmp_path: Path) -> None:
    clock = Clock(tmp_path, -3600)
    _, found = doctor(release.account, release.arguments, {**release.environment, **clock.environment})
    told = [finding["message"].partition(" is 3")[0] for finding in found["clock"] if finding["severity"] == "warning"]
    assert told == ["the clock of the API server", "the clock of the store of WATCHBILL_REDIS_URL"]


def test_a_cluster_that_does_not_answer_is_an_error_if_it_was_asked_for(
    release: Release, tmp_path: Path, control_plane: ControlPlane
) -> None:
    away = tmp_path / "kubeconfig"
    away.write_text(release.account.read_text().replace(control_plane.url, "https://127.0.0.1:1"))
    for words, severity in ((["doctor", "--cluster"], "error"), (["doctor"], "warning")):
        _, found = doctor(away, words, release.environment)
        assert bad(found) == [("cluster", severity)]
