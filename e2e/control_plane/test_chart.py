"""The chart: what it renders is valid, an install asks for no more than it needs, and CRDs outlive it or do not.

On a control plane of its own: an install owns the CRDs, and other tests have theirs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

import watchbill
from e2e.cluster import control_plane, machine
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.kubectl import Kubectl, KubectlError
from e2e.cluster.machine import ClusterError
from e2e.control_plane import access, charts
from e2e.control_plane.charts import CHART, ROOT, Helm
from watchbill import cluster_names, local_server
from watchbill.api import Crew
from watchbill.doctor import rights
from watchbill.plan import manifests
from watchbill.settings import Settings

CRDS = {"crews.watchbill.dev", "heartbeats.watchbill.dev"}

VALUES: dict[str, dict[str, Any]] = {
    "default": {},
    "url": {"redis": {"url": "rediss://user:word@redis.example:6380/1"}, "logLevel": "DEBUG"},
    "trial": {"valkey": {"enabled": True}, "networkPolicy": {"enabled": True, "monitoringNamespaces": ["monitoring"]}},
    "trial-in-memory": {"valkey": {"enabled": True, "password": "word", "persistence": {"enabled": False}}},
    "two-namespaces": {
        "watchNamespaces": ["default", "kube-public"],
        "redis": {"existingSecret": "mine", "key": "address"},
        "crds": {"keep": False},
        "rbac": {"aggregate": False},
        "networkPolicy": {"enabled": True},
        "workers": {"resources": {"limits": None, "requests": {"cpu": 1}}, "allowModules": ["acme.agents", "lib"]},
    },
    "pinned": {
        "image": {"repository": "a.example/operator", "tag": "1", "digest": f"sha256:{'a' * 64}"},
        "workers": {"image": {"digest": f"sha256:{'b' * 64}"}, "resources": None},
        "valkey": {"enabled": True, "image": {"digest": f"sha256:{'c' * 64}"}},
    },
    "all": {
        "valkey": {"enabled": True, "persistence": {"storageClassName": "fast", "size": "2Gi"}},
        "imagePullSecrets": [{"name": "registry"}],
        "serviceAccount": {"annotations": {"a.example/b": "c"}},
        "podAnnotations": {"a.example/b": "c"},
        "podLabels": {"a.example/b": "c"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "priorityClassName": "system-cluster-critical",
        "networkPolicy": {"enabled": True},
    },
}
MONITORS = {
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "podMonitor": {"enabled": True, "interval": "1m"},
    "kubeStateMetrics": {"enabled": True},
    "dashboards": {"enabled": True},
    "alerts": {"enabled": True},
}

# (group, resource, verb) in a namespace that the operator watches. More than this is a leak, less is a failure.
RIGHTS = {right[:3] for right in rights.IN_NAMESPACES}
LEASE_RIGHTS = {
    (group, f"{resource}/{name}" if name else resource, verb)
    for group, resource, verb, name in rights.on_lease("watchbill")
}
"""In the operator's own namespace."""
CLUSTER_RIGHTS = {(group, f"{resource}/{name}", verb) for group, resource, verb, name in rights.IN_CLUSTER}

CREW = {
    "apiVersion": "watchbill.dev/v1alpha1",
    "kind": "Crew",
    "metadata": {"name": "kept"},
    "spec": {"agents": [{"name": "echo", "class": "EchoAgent"}]},
}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane.running(tmp_path_factory.mktemp("chart")) as plane:
        yield plane


@pytest.fixture(scope="module")
def kubectl(plane: ControlPlane) -> Kubectl:
    return plane.kubectl


@pytest.fixture(scope="module")
def helm(plane: ControlPlane) -> Helm:
    return Helm(plane)


@pytest.fixture
def namespace(kubectl: Kubectl, helm: Helm) -> Iterator[str]:
    """A namespace in which nothing runs that is not restricted; releases and CRDs are gone after the test."""
    name = f"e2e-{secrets.token_hex(4)}"
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    kubectl("wait", "serviceaccount/default", f"--namespace={name}", "--for=create", "--timeout=120s")
    try:
        yield name
    finally:
        for release in json.loads(helm("list", "--namespace", name, "--output=json")):
            helm("uninstall", release["name"], "--namespace", name)
        kubectl.delete_crds(*CRDS)
        kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def schemas(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> str:
    return charts.write_schemas(kubectl, tmp_path_factory.mktemp("schemas"))


def test_its_crds_and_version_are_the_projects() -> None:
    for path in (ROOT / "crds").glob("*.yaml"):
        assert (CHART / "files" / "crds" / path.name).read_text() == path.read_text(), f"run make crds: {path.name}"
    assert len(list((CHART / "files" / "crds").iterdir())) == len(CRDS)
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == watchbill.__version__


@pytest.mark.parametrize("name", VALUES)
def test_helm_finds_nothing_to_mend(helm: Helm, name: str) -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in helm("lint", "--strict", CHART, values=VALUES[name])


@pytest.mark.parametrize("name", VALUES)
def test_what_it_renders_fits_the_schemas(helm: Helm, schemas: str, name: str) -> None:
    rendered = helm("template", "some", CHART, "--namespace=default", values={**VALUES[name], **MONITORS})
    # The Prometheus operator's kinds are not the API server's; what is said of them is looked at below.
    found = charts.conform(rendered, schemas, skip="ServiceMonitor,PodMonitor,PrometheusRule")
    assert found == {"valid": len(charts.objects(rendered)) - 3, "invalid": 0, "errors": 0, "skipped": 3}


def test_the_schemas_refuse_what_is_wrong(schemas: str) -> None:
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"prots": []}}
    with pytest.raises(ClusterError, match="prots"):
        charts.conform(json.dumps(wrong), schemas)


@pytest.mark.parametrize("name", VALUES)
def test_the_api_server_would_take_what_it_renders(helm: Helm, kubectl: Kubectl, name: str) -> None:
    rendered = helm("template", "some", CHART, "--namespace=default", values=VALUES[name])
    found = charts.objects(rendered)
    (account,) = (each for (kind, _), each in found.items() if kind == "ServiceAccount")
    apply = ("apply", "--server-side", "--filename=-")
    kubectl(*apply, stdin=json.dumps(account))  # no pod is taken without, and the chart has one
    try:
        answer = kubectl(*apply, "--dry-run=server", stdin=rendered)
    finally:
        kubectl("delete", "serviceaccount", account["metadata"]["name"], "--namespace=default")
    assert answer.count("(server dry run)") == len(found)


def test_monitors_find_what_they_are_for(helm: Helm) -> None:
    objects = charts.objects(helm("template", "watchbill", CHART, "--namespace=default", values=MONITORS))
    service, deployment = objects["Service", "watchbill"], objects["Deployment", "watchbill"]
    monitor = objects["ServiceMonitor", "watchbill"]
    labels = monitor["spec"]["selector"]["matchLabels"].items()
    assert labels <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["honorLabels"]) == (service["spec"]["ports"][0]["name"], True)
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    workers = objects["PodMonitor", "watchbill-workers"]["spec"]
    assert workers["namespaceSelector"] == {"any": True}
    crew = Crew.model_validate(
        {"metadata": {"name": "some"}, "spec": {"agents": [{"name": "a", "class": "EchoAgent"}]}}
    )
    pod = manifests.pod_template(crew, "default", manifests.Defaults("image"))
    (selected,) = workers["selector"]["matchExpressions"]
    assert selected["operator"] == "Exists"
    assert selected["key"] in pod["metadata"]["labels"]
    (endpoint,) = workers["podMetricsEndpoints"]
    assert endpoint["honorLabels"] is True
    assert endpoint["port"] in {port["name"] for port in pod["spec"]["containers"][0]["ports"]}


def test_images_can_be_pinned_by_digest(helm: Helm) -> None:
    objects = charts.objects(helm("template", "watchbill", CHART, "--namespace=default", values=VALUES["pinned"]))
    assert _container(objects["Deployment", "watchbill"])["image"] == f"a.example/operator@sha256:{'a' * 64}"
    variables = _variables(objects["Deployment", "watchbill"])
    assert variables["WATCHBILL_WORKER_IMAGE"] == f"watchbill/worker@sha256:{'b' * 64}"
    assert _container(objects["StatefulSet", "watchbill-valkey"])["image"] == f"valkey/valkey@sha256:{'c' * 64}"


def test_what_workers_get_by_default_reaches_the_operator(helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    for values, limits, modules in (
        ({}, {"memory": "1Gi"}, ()),
        (VALUES["two-namespaces"], None, ("acme.agents", "lib")),
    ):
        objects = charts.objects(helm("template", "watchbill", CHART, "--namespace=default", values=values))
        for name, value in _variables(objects["Deployment", "watchbill"]).items():
            monkeypatch.setenv(name, value)
        settings = Settings()
        assert settings.worker_resources.get("limits") == limits
        assert settings.worker_resources["requests"]
        assert settings.allowed_modules == modules


def test_two_replicas_can_be_replaced_one_at_a_time_and_block_no_drain_of_a_node(helm: Helm) -> None:
    rendered = {
        n: charts.objects(helm("template", "watchbill", CHART, "--namespace=here", values={"replicas": n}))
        for n in (1, 2)
    }
    spec = rendered[2]["Deployment", "watchbill"]["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}}
    assert "requiredDuringSchedulingIgnoredDuringExecution" not in json.dumps(spec)
    (term,) = spec["template"]["spec"]["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    labels = spec["template"]["metadata"]["labels"]
    budget = rendered[2]["PodDisruptionBudget", "watchbill"]["spec"]
    for selected in (term["podAffinityTerm"]["labelSelector"], budget["selector"], spec["selector"]):
        assert selected["matchLabels"].items() <= labels.items()
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    assert ("PodDisruptionBudget", "watchbill") not in rendered[1]
    assert _variables(rendered[2]["Deployment", "watchbill"])["WATCHBILL_LEASE"] == "here/watchbill"
    assert rendered[2]["Role", "watchbill-leader@here"]["rules"][0]["resourceNames"] == ["watchbill"]


@pytest.mark.parametrize(
    "values",
    [
        {"redis": {"url": "redis://:tell-nobody@redis.example:6379/0"}},
        {"valkey": {"enabled": True, "password": "tell-nobody"}},
    ],
    ids=["url", "password"],
)
def test_nothing_but_the_secret_tells_of_the_password(helm: Helm, values: dict[str, Any]) -> None:
    """Nor its hash, against which guesses could be tried."""
    objects = charts.objects(helm("template", "watchbill", CHART, "--namespace=default", values=values))
    secret = objects.pop(("Secret", "watchbill-redis"))["data"]
    told = json.dumps([*objects.values()])
    texts = [base64.b64decode(value) for value in secret.values()]
    assert any(b"tell-nobody" in text for text in texts)
    for text in (*texts, b"tell-nobody"):
        for form in (text, base64.b64encode(text), hashlib.sha256(text).hexdigest().encode()):
            assert form.decode()[:8] not in told.replace("redis://...", "")
    if "valkey" in values:
        container = _container(objects["StatefulSet", "watchbill-valkey"])
        assert "PASSWORD" not in json.dumps(container)
        assert container["args"][0] == "/etc/valkey/valkey.conf"


def test_the_bundled_valkey_takes_the_password_from_its_file(helm: Helm, tmp_path: Path) -> None:
    objects = charts.objects(
        helm("template", "watchbill", CHART, "--namespace=default", values=VALUES["trial-in-memory"])
    )
    pod = objects["StatefulSet", "watchbill-valkey"]["spec"]["template"]["spec"]
    (mounted,) = [mount for mount in _container(pod)["volumeMounts"] if mount["name"] == "config"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "config"]
    for item in volume["secret"]["items"]:
        text = base64.b64decode(objects["Secret", volume["secret"]["secretName"]]["data"][item["key"]])
        (tmp_path / item["path"]).write_bytes(text)
    (tmp_path / "data").mkdir()
    words = [word.replace(mounted["mountPath"], str(tmp_path)) for word in _container(pod)["args"]]
    words = [str(tmp_path / "data") if word == "/data" else word for word in words]
    with tempfile.TemporaryDirectory(prefix="wb-") as folder:
        socket = Path(folder) / "s"
        server = subprocess.Popen(
            [local_server.find_server(), *words, "--port", "0", "--unixsocket", str(socket)], stdout=subprocess.DEVNULL
        )
        try:
            machine.until(socket.exists, within=180, what="the server's socket")
            with redis.Redis(unix_socket_path=str(socket), password="word") as client:
                machine.until(client.ping, within=180, what="its answer", ignoring=(redis.BusyLoadingError,))
                assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            with redis.Redis(unix_socket_path=str(socket)) as client, pytest.raises(redis.AuthenticationError):
                client.ping()
        finally:
            server.kill()
            server.wait()


NAMESPACES: dict[str, dict[str, str]] = {
    "watchbill": {},
    "team-a": {},
    "team-b": {"watchbill.dev/store": "true"},
    "stranger": {"watchbill.dev/crew": "some"},
    "monitoring": {},
}
WORKER = {"watchbill.dev/crew": "some", "app.kubernetes.io/component": "worker"}


@pytest.mark.parametrize(
    ("watched", "admitted"),
    [([], {"watchbill", "team-b"}), (["team-a"], {"team-a"}), (["watchbill", "team-b"], {"watchbill", "team-b"})],
    ids=["all", "another", "own-and-another"],
)
def test_the_bundled_valkey_admits_workers_by_their_namespace(
    helm: Helm, watched: list[str], admitted: set[str]
) -> None:
    values = {"valkey": {"enabled": True}, "networkPolicy": {"enabled": True}, "watchNamespaces": watched}
    policies = _policies(helm("template", "watchbill", CHART, "--namespace=watchbill", values=values))
    valkey = {
        "app.kubernetes.io/name": "watchbill",
        "app.kubernetes.io/instance": "watchbill",
        "app.kubernetes.io/component": "valkey",
    }

    def reaches(namespace: str, labels: dict[str, str]) -> bool:
        return _reaches(policies, ("watchbill", valkey, "redis"), (namespace, labels))

    assert {namespace for namespace in NAMESPACES if reaches(namespace, WORKER)} == admitted
    operator = valkey | {"app.kubernetes.io/component": "operator"}
    assert {namespace for namespace in NAMESPACES if reaches(namespace, operator)} == {"watchbill"}
    assert not any(reaches(namespace, {"app": "x"}) for namespace in NAMESPACES)


@pytest.mark.parametrize("watched", [[], ["team-a", "team-b"]], ids=["all", "two"])
def test_metrics_of_workers_and_operator_are_for_their_namespace_and_monitoring(helm: Helm, watched: list[str]) -> None:
    values = {
        "networkPolicy": {"enabled": True, "monitoringNamespaces": ["monitoring"]},
        "watchNamespaces": watched,
    }
    objects = charts.objects(helm("template", "watchbill", CHART, "--namespace=watchbill", values=values))
    policies = _policies(helm("template", "watchbill", CHART, "--namespace=watchbill", values=values))
    crew = Crew.model_validate(CREW)
    for namespace in watched or ["watchbill"]:
        pod = manifests.pod_template(crew, namespace, manifests.Defaults("image"))["metadata"]["labels"]
        seen = {other for other in NAMESPACES if _reaches(policies, (namespace, pod, "health"), (other, {"a": "b"}))}
        assert seen == {namespace, "monitoring"}
        assert not _reaches(policies, (namespace, pod, "other"), (namespace, {}))
    pod = objects["Deployment", "watchbill"]["spec"]["template"]["metadata"]["labels"]
    seen = {other for other in NAMESPACES if _reaches(policies, ("watchbill", pod, "http"), (other, {"a": "b"}))}
    assert seen == {"watchbill", "monitoring"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"redis": {"ulr": "redis://x"}}, "additional properties 'ulr' not allowed"),
        ({"watchNamespace": "a"}, "additional properties 'watchNamespace' not allowed"),
        ({"redis": {"url": "http://x"}}, "/redis/url"),
        ({"watchNamespaces": ["A"]}, "/watchNamespaces/0"),
        ({"image": {"digest": "sha256:1"}}, "/image/digest"),
        ({"workers": {"allowModules": ["a:b"]}}, "/workers/allowModules/0"),
        ({"redis": {"url": "redis://x"}, "valkey": {"enabled": True}}, "contradict each other"),
        ({"redis": {"existingSecret": ""}}, "No Redis"),
    ],
    ids=["misspelt", "unknown", "no-redis-url", "no-name", "digest", "module", "two-stores", "no-store"],
)
def test_values_that_cannot_be_meant_are_refused(helm: Helm, values: dict[str, Any], says: str) -> None:
    with pytest.raises(ClusterError) as refused:
        helm("template", "some", CHART, values=values)
    assert says in str(refused.value)


def test_a_trial_is_complete_in_a_restricted_namespace(helm: Helm, kubectl: Kubectl, namespace: str) -> None:
    where = f"--namespace={namespace}"
    helm("install", "watchbill", CHART, where, values=VALUES["trial"])
    # Controllers make the pods: none would be there if the namespace did not admit it.
    expected = {"operator", "valkey"}
    machine.until(lambda: _components(kubectl, namespace) == expected, within=180, what="operator and Valkey")
    before = _secret(kubectl, namespace)
    password = before["password"]
    assert len(password) >= 32
    assert before["url"] == f"redis://:{password}@watchbill-valkey.{namespace}.svc:6379/0"
    assert kubectl.items("persistentvolumeclaims", where)

    helm("upgrade", "watchbill", CHART, where, values=VALUES["trial"])
    assert _secret(kubectl, namespace) == before

    helm("uninstall", "watchbill", where)
    machine.until(lambda: not _components(kubectl, namespace), within=180, what="no pods")
    leftovers = kubectl("get", "deployments,statefulsets,services,secrets,roles,rolebindings,networkpolicies", where)
    assert leftovers == ""
    assert "watchbill" not in kubectl("get", "clusterroles,clusterrolebindings", "--output=name")


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ({"redis": {"url": "redis://a.example/0"}}, {"redis": {"url": "redis://b.example/0"}}, "deployment/watchbill"),
        (
            {"valkey": {"enabled": True}},
            {"valkey": {"enabled": True, "password": "other"}},
            "statefulset/watchbill-valkey",
        ),
    ],
    ids=["url", "password"],
)
def test_another_secret_means_other_pods_and_the_same_one_does_not(
    helm: Helm, kubectl: Kubectl, namespace: str, before: dict[str, Any], after: dict[str, Any], kind: str
) -> None:
    where = f"--namespace={namespace}"

    def template() -> Any:
        return kubectl.json("get", kind, where)["spec"]["template"]

    helm("install", "watchbill", CHART, where, values=before)
    first = template()
    helm("upgrade", "watchbill", CHART, where, values=before)
    assert template() == first
    helm("upgrade", "watchbill", CHART, where, values=after)
    second = template()
    assert second != first
    helm("upgrade", "watchbill", CHART, where, values=after)
    assert template() == second


def test_the_operator_has_the_rights_it_needs_everywhere_and_no_others(
    helm: Helm, plane: ControlPlane, kubectl: Kubectl, namespace: str
) -> None:
    helm("install", "watchbill", CHART, f"--namespace={namespace}")
    access.until_known(plane, namespace)
    assert _rights(kubectl, f"{namespace}:watchbill", namespace) == RIGHTS | CLUSTER_RIGHTS | LEASE_RIGHTS
    assert _rights(kubectl, f"{namespace}:watchbill", "kube-public") == RIGHTS | CLUSTER_RIGHTS


def test_with_named_namespaces_the_operator_has_rights_in_no_other(
    helm: Helm, plane: ControlPlane, kubectl: Kubectl, namespace: str
) -> None:
    values = {"watchNamespaces": [namespace, "kube-public"]}
    helm("install", "watchbill", CHART, f"--namespace={namespace}", values=values)
    access.until_known(plane, namespace)
    account = f"{namespace}:watchbill"
    for watched in values["watchNamespaces"]:
        own = LEASE_RIGHTS if watched == namespace else set()
        assert _rights(kubectl, account, watched) == RIGHTS | CLUSTER_RIGHTS | own
    for other in ("default", "kube-system"):
        assert _rights(kubectl, account, other) == CLUSTER_RIGHTS
    helm("upgrade", "watchbill", CHART, f"--namespace={namespace}", values={**values, "redis": {"aclPerCrew": True}})
    access.until_known(plane, namespace)
    assert _rights(kubectl, account, "kube-public") == RIGHTS | CLUSTER_RIGHTS | {one[:3] for one in rights.FOR_USERS}
    assert _rights(kubectl, account, "default") == CLUSTER_RIGHTS
    assert _rights(kubectl, f"{namespace}:{cluster_names.worker_service_account('echo')}", namespace) == set()
    environment = _environment(kubectl, namespace)
    assert environment["WATCHBILL_REDIS_ACL_PER_CREW"] == "true"
    assert environment["WATCHBILL_WATCH_NAMESPACES"] == f"{namespace},kube-public"
    assert environment["WATCHBILL_INSTALLATION"] == f"{namespace}/watchbill"


@pytest.mark.parametrize("role", ["view", "edit", "admin"])
def test_who_may_use_a_namespace_may_use_its_crews(helm: Helm, kubectl: Kubectl, namespace: str, role: str) -> None:
    helm("install", "watchbill", CHART, f"--namespace={namespace}")
    kubectl("create", "rolebinding", "her", f"--clusterrole={role}", "--user=her", f"--namespace={namespace}")

    def may(verb: str, resource: str, part: str = "") -> bool:
        try:
            kubectl("auth", "can-i", verb, resource, f"--subresource={part}", "--as=her", f"--namespace={namespace}")
        except KubectlError:
            return False
        return True

    machine.until(lambda: may("get", "crews.watchbill.dev"), within=180, what=f"{role} has got its rules")
    assert may("list", "heartbeats.watchbill.dev")
    writes = role != "view"
    if writes:
        machine.until(lambda: may("create", "crews.watchbill.dev"), within=180, what=f"{role} has got all its rules")
    assert may("create", "crews.watchbill.dev") is writes
    assert may("delete", "heartbeats.watchbill.dev") is writes
    assert may("patch", "crews.watchbill.dev", "scale") is writes
    assert not may("patch", "crews.watchbill.dev", "status")


def test_an_upgrade_brings_new_crds_and_an_uninstall_leaves_them_with_their_crews(
    helm: Helm, kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    where = f"--namespace={namespace}"
    helm("install", "watchbill", CHART, where)
    newer = Path(shutil.copytree(CHART, tmp_path / "newer"))
    file = newer / "files" / "crds" / "watchbill.dev_crews.yaml"
    text = file.read_text()
    old = "A crew of agents that share a queue of tasks."
    assert text.count(old) == 1
    file.write_text(text.replace(old, "A newer crew."))
    helm("upgrade", "watchbill", newer, where)
    assert _description(kubectl) == "A newer crew."
    kubectl("wait", "crd/crews.watchbill.dev", "--for=condition=Established", "--timeout=120s")
    made = "its crew is taken"  # a kind is Established before every part of the API server has heard of it
    machine.until(lambda: kubectl.apply(CREW, namespace=namespace), within=180, what=made, ignoring=(KubectlError,))

    helm("uninstall", "watchbill", where)
    assert kubectl("get", "crew", "kept", where, "--output=name") == "crew.watchbill.dev/kept\n"

    # As the notes say.
    helm("install", "other", CHART, where, "--take-ownership")
    assert _description(kubectl) == old
    assert kubectl("get", "crew", "kept", where, "--output=name") == "crew.watchbill.dev/kept\n"
    helm("upgrade", "other", CHART, where, values={"crds": {"keep": False}})
    helm("uninstall", "other", where)
    machine.until(lambda: not _crds(kubectl), within=180, what="no CRDs")


def test_the_doctor_misses_the_crds_of_a_cluster_without_an_install(plane: ControlPlane, namespace: str) -> None:
    environment = {"WATCHBILL_REDIS_URL": "redis://127.0.0.1:1"}
    for words, severity in ((["doctor", "--cluster"], "error"), (["doctor"], "skipped")):
        _, found = charts.doctor(plane.kubeconfig, words, environment)
        (finding,) = found["crds"]
        assert (finding["severity"], finding["message"]) == (severity, "the cluster has no CRD of Crew and Heartbeat")
        assert finding["fix"].startswith("helm install watchbill")


def test_a_second_release_leaves_crds_and_namespaces_to_the_first(helm: Helm, kubectl: Kubectl, namespace: str) -> None:
    helm("install", "watchbill", CHART, f"--namespace={namespace}")
    where, others = "--namespace=kube-public", {"crds": {"enabled": False}}
    first = f"kube-public/again and {namespace}/watchbill would both watch"
    for watched, both in ((["kube-public"], "kube-public, and"), ([], "all namespaces, and")):
        with pytest.raises(ClusterError, match=f"{first} {both} undo.*set watchNamespaces of both"):
            helm("install", "again", CHART, where, values={**others, "watchNamespaces": watched})
    values = {"watchNamespaces": [namespace, "default"]}
    helm("upgrade", "watchbill", CHART, f"--namespace={namespace}", values=values)
    with pytest.raises(ClusterError, match=f"{first} default, and"):
        helm("install", "again", CHART, where, values={**others, "watchNamespaces": ["default", "kube-public"]})
    second = {"crds": {"enabled": False}, "watchNamespaces": ["kube-public"]}
    with pytest.raises(ClusterError, match="cannot be imported into the current release"):
        helm("install", "second", CHART, "--namespace=kube-public", values={**second, "crds": {"enabled": True}})
    try:
        helm("install", "again", CHART, "--namespace=kube-public", values=second)
    finally:
        for release in json.loads(helm("list", "--namespace=kube-public", "--output=json")):
            helm("uninstall", release["name"], "--namespace=kube-public")
    assert _crds(kubectl) == CRDS


def test_its_notes_copy_the_secret_to_where_crews_are(
    helm: Helm, kubectl: Kubectl, plane: ControlPlane, namespace: str
) -> None:
    values: dict[str, Any] = {
        "redis": {"url": "redis://:word@redis.example:6379/0"},
        "watchNamespaces": ["kube-public"],
    }
    notes = helm("install", "watchbill", CHART, f"--namespace={namespace}", values=values)
    assert "kubectl apply -n kube-public -f crew.yaml" in notes
    assert f"kubectl exec -n {namespace} deploy/watchbill -- watchbill submit -n kube-public" in notes
    start = notes.index("kubectl get secret")
    command = notes[start : notes.index("\n\n", start)]
    path = f"{Path(plane.kubectl.program).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig), "PATH": path}
    try:
        subprocess.run(["bash", "-euo", "pipefail", "-c", command], env=environment, check=True, timeout=300)
        assert _secret(kubectl, "kube-public") == {"url": values["redis"]["url"]}
    finally:
        kubectl("delete", "secret", "watchbill-redis", "--namespace=kube-public", "--ignore-not-found")


def _container(of: dict[str, Any]) -> dict[str, Any]:
    pod = of if "containers" in of else of["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return dict(container)


def _variables(deployment: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in _container(deployment)["env"] if "value" in entry}


def _policies(rendered: str) -> list[Any]:
    return [d for d in yaml.safe_load_all(rendered) if d and d["kind"] == "NetworkPolicy"]


def _reaches(policies: list[Any], to: tuple[str, dict[str, str], str], by: tuple[str, dict[str, str]]) -> bool:
    """Returns whether a pod (namespace, labels) reaches another's port, as Kubernetes reads the policies."""
    namespace, labels, port = to
    mine = [
        p for p in policies if p["metadata"]["namespace"] == namespace and _selects(p["spec"]["podSelector"], labels)
    ]
    assert mine, f"no policy guards {to}"

    def admits(peer: dict[str, Any], home: str) -> bool:
        names = {"kubernetes.io/metadata.name": by[0], **NAMESPACES[by[0]]}
        of_namespace = peer.get("namespaceSelector")
        if by[0] != home if of_namespace is None else not _selects(of_namespace, names):
            return False
        return _selects(peer.get("podSelector", {}), by[1])

    return any(
        port in {p["port"] for p in rule["ports"]} and any(admits(peer, namespace) for peer in rule["from"])
        for policy in mine
        for rule in policy["spec"]["ingress"]
    )


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    for wanted in selector.get("matchExpressions", []):
        assert wanted["operator"] in ("In", "Exists")
        if wanted["key"] not in labels or labels[wanted["key"]] not in wanted.get("values", labels.values()):
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def _components(kubectl: Kubectl, namespace: str) -> set[str]:
    pods = kubectl.items("pods", f"--namespace={namespace}")
    return {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods}


def _secret(kubectl: Kubectl, namespace: str) -> dict[str, str]:
    data = kubectl.json("get", "secret", "watchbill-redis", f"--namespace={namespace}")["data"]
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


def _environment(kubectl: Kubectl, namespace: str) -> dict[str, str]:
    deployment = kubectl.json("get", "deployment", "watchbill", f"--namespace={namespace}")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def _description(kubectl: Kubectl) -> str:
    crd = kubectl.json("get", "crd", "crews.watchbill.dev")
    return str(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"])


def _crds(kubectl: Kubectl) -> set[str]:
    return {crd["metadata"]["name"] for crd in kubectl.items("crd")} & CRDS


def _rights(kubectl: Kubectl, account: str, namespace: str) -> set[tuple[str, str, str]]:
    """Returns the rights of this ServiceAccount there beyond those of every account."""

    def rules(name: str) -> set[tuple[str, str, str]]:
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectRulesReview",
            "spec": {"namespace": namespace},
        }
        words = ("create", "--validate=false", "--filename=-", "--output=json", f"--as=system:serviceaccount:{name}")
        groups = ("--as-group=system:authenticated", "--as-group=system:serviceaccounts")
        answer = json.loads(kubectl(*words, *groups, stdin=json.dumps(review)))
        assert not answer["status"]["incomplete"]
        return {
            (group, f"{resource}/{name}" if name else resource, verb)
            for rule in answer["status"]["resourceRules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for name in rule.get("resourceNames") or [""]
            for verb in rule["verbs"]
        }

    return rules(account) - rules("kube-system:default")
