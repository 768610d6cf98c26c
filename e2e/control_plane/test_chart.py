"""The chart: what it renders is valid, an install asks for no more than it needs, and CRDs outlive it or do not.

On a control plane of its own: an install owns the CRDs, and other tests have theirs.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import watchbill
from e2e.cluster import control_plane, machine, programs
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.kubectl import Kubectl, KubectlError
from e2e.cluster.machine import ClusterError
from watchbill.api import Crew
from watchbill.plan import manifests

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "watchbill"
CRDS = {"crews.watchbill.dev", "heartbeats.watchbill.dev"}

VALUES: dict[str, dict[str, Any]] = {
    "default": {},
    "url": {"redis": {"url": "rediss://user:word@redis.example:6380/1"}, "logLevel": "DEBUG"},
    "trial": {"valkey": {"enabled": True}, "networkPolicy": {"enabled": True}},
    "trial-in-memory": {"valkey": {"enabled": True, "password": "word", "persistence": {"enabled": False}}},
    "two-namespaces": {
        "watchNamespaces": ["default", "kube-public"],
        "redis": {"existingSecret": "mine", "key": "address"},
        "crds": {"keep": False},
        "rbac": {"aggregate": False},
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
}

# (group, resource, verb) in a namespace that the operator watches. More than this is a leak, less is a failure.
RIGHTS = {
    *(("watchbill.dev", kind, verb) for kind in ("crews", "heartbeats") for verb in ("list", "watch")),
    ("watchbill.dev", "crews", "get"),
    *(("watchbill.dev", f"{kind}/status", "patch") for kind in ("crews", "heartbeats")),
    ("watchbill.dev", "crews/finalizers", "update"),
    *(("apps", "deployments", verb) for verb in ("list", "watch", "create", "patch", "delete")),
    *(("", "serviceaccounts", verb) for verb in ("get", "create", "patch")),
    ("", "secrets", "get"),
}
CLUSTER_RIGHTS = {("", "namespaces/kube-system", "get")}

CREW = {
    "apiVersion": "watchbill.dev/v1alpha1",
    "kind": "Crew",
    "metadata": {"name": "kept"},
    "spec": {"agents": [{"name": "echo", "class": "EchoAgent"}]},
}

Helm = Callable[..., str]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane.running(tmp_path_factory.mktemp("chart")) as plane:
        yield plane


@pytest.fixture(scope="module")
def kubectl(plane: ControlPlane) -> Kubectl:
    return plane.kubectl


@pytest.fixture(scope="module")
def helm(plane: ControlPlane) -> Helm:
    """Helm as a function; `values` become a file. Raises ClusterError with what it said."""
    homes = ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
    environment = {"KUBECONFIG": str(plane.kubeconfig), **{home: str(plane.folder / home) for home in homes}}

    def run(*words: str | Path, values: dict[str, Any] | None = None) -> str:
        files = [] if values is None else ["--values", "-"]
        return machine.run([programs.path("helm"), *words, *files], stdin=json.dumps(values or {}), env=environment)

    return run


@pytest.fixture
def namespace(kubectl: Kubectl, helm: Helm) -> Iterator[str]:
    """A namespace in which nothing runs that is not restricted; releases and CRDs are gone after the test."""
    name = f"e2e-{secrets.token_hex(4)}"
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    kubectl("wait", "serviceaccount/default", f"--namespace={name}", "--for=create", "--timeout=30s")
    try:
        yield name
    finally:
        for release in json.loads(helm("list", "--namespace", name, "--output=json")):
            helm("uninstall", release["name"], "--namespace", name)
        kubectl("delete", "crd", "--ignore-not-found", *CRDS)
        kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def schemas(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The API server's own schemas, one file per kind, with every unknown field refused."""
    folder = tmp_path_factory.mktemp("schemas")
    definitions = json.loads(kubectl("get", "--raw", "/openapi/v2"))["definitions"]
    for definition in definitions.values():
        if "properties" in definition:
            definition.setdefault("additionalProperties", False)
    for name in ("util.intstr.IntOrString", "api.resource.Quantity"):
        definitions[f"io.k8s.apimachinery.pkg.{name}"]["type"] = ["string", "integer", "number"]
    (folder / "all.json").write_text(json.dumps({"definitions": definitions}))
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            file = "-".join(filter(None, (kind["kind"], kind["group"].partition(".")[0], kind["version"]))).lower()
            reference = {"$ref": f"file://{folder}/all.json#/definitions/{name}"}
            (folder / f"{file}.json").write_text(json.dumps(reference))
    return folder


def test_its_crds_and_version_are_the_projects():
    for path in (ROOT / "crds").glob("*.yaml"):
        assert (CHART / "files" / "crds" / path.name).read_text() == path.read_text(), f"run make crds: {path.name}"
    assert len(list((CHART / "files" / "crds").iterdir())) == len(CRDS)
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == watchbill.__version__


@pytest.mark.parametrize("name", VALUES)
def test_helm_finds_nothing_to_mend(helm: Helm, name: str):
    assert "1 chart(s) linted, 0 chart(s) failed" in helm("lint", "--strict", CHART, values=VALUES[name])


@pytest.mark.parametrize("name", VALUES)
def test_what_it_renders_fits_the_schemas(helm: Helm, schemas: Path, name: str):
    rendered = helm("template", "some", CHART, "--namespace=default", values={**VALUES[name], **MONITORS})
    # The Prometheus operator's kinds are not the API server's; what is said of them is looked at below.
    command = [programs.path("kubeconform"), "-strict", "-summary", "-output=json", "-skip=ServiceMonitor,PodMonitor"]
    location = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    found = json.loads(machine.run([*command, f"-schema-location={location}"], stdin=rendered))
    assert found["summary"] == {"valid": len(_objects(rendered)) - 2, "invalid": 0, "errors": 0, "skipped": 2}


def test_the_schemas_refuse_what_is_wrong(schemas: Path):
    wrong = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"prots": []}}
    location = f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"
    command = [programs.path("kubeconform"), "-strict", f"-schema-location={location}"]
    with pytest.raises(ClusterError, match="prots"):
        machine.run(command, stdin=json.dumps(wrong))


@pytest.mark.parametrize("name", VALUES)
def test_the_api_server_would_take_what_it_renders(helm: Helm, kubectl: Kubectl, name: str):
    rendered = helm("template", "some", CHART, "--namespace=default", values=VALUES[name])
    answer = kubectl("apply", "--dry-run=server", "--server-side", "--filename=-", stdin=rendered)
    assert answer.count("(server dry run)") == len(_objects(rendered))


def test_monitors_find_what_they_are_for(helm: Helm):
    objects = _objects(helm("template", "watchbill", CHART, "--namespace=default", values=MONITORS))
    service, deployment = objects["Service", "watchbill"], objects["Deployment", "watchbill"]
    monitor = objects["ServiceMonitor", "watchbill"]
    labels = monitor["spec"]["selector"]["matchLabels"].items()
    assert labels <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    workers = objects["PodMonitor", "watchbill-workers"]["spec"]
    assert workers["namespaceSelector"] == {"any": True}
    crew = Crew.model_validate(
        {"metadata": {"name": "some"}, "spec": {"agents": [{"name": "a", "class": "EchoAgent"}]}}
    )
    pod = manifests.pod_template(crew, "default", "image")
    (selected,) = workers["selector"]["matchExpressions"]
    assert selected["operator"] == "Exists"
    assert selected["key"] in pod["metadata"]["labels"]
    assert workers["podMetricsEndpoints"][0]["port"] in {port["name"] for port in pod["spec"]["containers"][0]["ports"]}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"redis": {"ulr": "redis://x"}}, "additional properties 'ulr' not allowed"),
        ({"watchNamespace": "a"}, "additional properties 'watchNamespace' not allowed"),
        ({"redis": {"url": "http://x"}}, "/redis/url"),
        ({"watchNamespaces": ["A"]}, "/watchNamespaces/0"),
        ({"redis": {"url": "redis://x"}, "valkey": {"enabled": True}}, "contradict each other"),
        ({"redis": {"existingSecret": ""}}, "No Redis"),
    ],
    ids=["misspelt", "unknown", "no-redis-url", "no-name", "two-stores", "no-store"],
)
def test_values_that_cannot_be_meant_are_refused(helm: Helm, values: dict[str, Any], says: str):
    with pytest.raises(ClusterError) as refused:
        helm("template", "some", CHART, values=values)
    assert says in str(refused.value)


def test_a_trial_is_complete_in_a_restricted_namespace(helm: Helm, kubectl: Kubectl, namespace: str):
    where = f"--namespace={namespace}"
    helm("install", "watchbill", CHART, where, values=VALUES["trial"])
    # Controllers make the pods: none would be there if the namespace did not admit it.
    expected = {"operator", "valkey"}
    machine.until(lambda: _components(kubectl, namespace) == expected, within=30, what="operator and Valkey")
    before = _secret(kubectl, namespace)
    password = before["password"]
    assert len(password) >= 32
    assert before["url"] == f"redis://:{password}@watchbill-valkey.{namespace}.svc:6379/0"
    assert kubectl.items("persistentvolumeclaims", where)

    helm("upgrade", "watchbill", CHART, where, values=VALUES["trial"])
    assert _secret(kubectl, namespace) == before

    helm("uninstall", "watchbill", where)
    machine.until(lambda: not _components(kubectl, namespace), within=30, what="no pods")
    leftovers = kubectl("get", "deployments,statefulsets,services,secrets,roles,rolebindings,networkpolicies", where)
    assert leftovers == ""
    assert "watchbill" not in kubectl("get", "clusterroles,clusterrolebindings", "--output=name")


def test_the_operator_has_the_rights_it_needs_everywhere_and_no_others(helm: Helm, kubectl: Kubectl, namespace: str):
    helm("install", "watchbill", CHART, f"--namespace={namespace}")
    for watched in (namespace, "kube-public"):
        assert _rights(kubectl, f"{namespace}:watchbill", watched) == RIGHTS | CLUSTER_RIGHTS


def test_with_named_namespaces_the_operator_has_rights_in_no_other(helm: Helm, kubectl: Kubectl, namespace: str):
    values = {"watchNamespaces": [namespace, "kube-public"]}
    helm("install", "watchbill", CHART, f"--namespace={namespace}", values=values)
    account = f"{namespace}:watchbill"
    for watched in values["watchNamespaces"]:
        assert _rights(kubectl, account, watched) == RIGHTS | CLUSTER_RIGHTS
    for other in ("default", "kube-system"):
        assert _rights(kubectl, account, other) == CLUSTER_RIGHTS
    environment = _environment(kubectl, namespace)
    assert environment["WATCHBILL_WATCH_NAMESPACES"] == f"{namespace},kube-public"
    assert environment["WATCHBILL_INSTALLATION"] == f"{namespace}/watchbill"


@pytest.mark.parametrize("role", ["view", "edit", "admin"])
def test_who_may_use_a_namespace_may_use_its_crews(helm: Helm, kubectl: Kubectl, namespace: str, role: str):
    helm("install", "watchbill", CHART, f"--namespace={namespace}")
    kubectl("create", "rolebinding", "her", f"--clusterrole={role}", "--user=her", f"--namespace={namespace}")

    def may(verb: str, resource: str, part: str = "") -> bool:
        try:
            kubectl("auth", "can-i", verb, resource, f"--subresource={part}", "--as=her", f"--namespace={namespace}")
        except KubectlError:
            return False
        return True

    machine.until(lambda: may("get", "crews.watchbill.dev"), within=20, what=f"{role} has got its rules")
    assert may("list", "heartbeats.watchbill.dev")
    writes = role != "view"
    if writes:
        machine.until(lambda: may("create", "crews.watchbill.dev"), within=20, what=f"{role} has got all its rules")
    assert may("create", "crews.watchbill.dev") is writes
    assert may("delete", "heartbeats.watchbill.dev") is writes
    assert may("patch", "crews.watchbill.dev", "scale") is writes
    assert not may("patch", "crews.watchbill.dev", "status")


def test_an_upgrade_brings_new_crds_and_an_uninstall_leaves_them_with_their_crews(
    helm: Helm, kubectl: Kubectl, namespace: str, tmp_path: Path
):
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
    kubectl("wait", "crd/crews.watchbill.dev", "--for=condition=Established", "--timeout=30s")
    kubectl.apply(CREW, namespace=namespace)

    helm("uninstall", "watchbill", where)
    assert kubectl("get", "crew", "kept", where, "--output=name") == "crew.watchbill.dev/kept\n"

    # As the notes say.
    helm("install", "other", CHART, where, "--take-ownership")
    assert _description(kubectl) == old
    assert kubectl("get", "crew", "kept", where, "--output=name") == "crew.watchbill.dev/kept\n"
    helm("upgrade", "other", CHART, where, values={"crds": {"keep": False}})
    helm("uninstall", "other", where)
    machine.until(lambda: not _crds(kubectl), within=30, what="no CRDs")


def test_a_second_release_leaves_the_crds_to_the_first(helm: Helm, kubectl: Kubectl, namespace: str):
    helm("install", "watchbill", CHART, f"--namespace={namespace}")
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
):
    values = {"redis": {"url": "redis://:word@redis.example:6379/0"}, "watchNamespaces": ["kube-public"]}
    notes = helm("install", "watchbill", CHART, f"--namespace={namespace}", values=values)
    assert "kubectl apply -n kube-public -f crew.yaml" in notes
    assert f"kubectl exec -n {namespace} deploy/watchbill -- watchbill submit -n kube-public" in notes
    start = notes.index("kubectl get secret")
    command = notes[start : notes.index("\n\n", start)]
    path = f"{Path(plane.kubectl.program).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig), "PATH": path}
    try:
        subprocess.run(["bash", "-euo", "pipefail", "-c", command], env=environment, check=True, timeout=60)
        assert _secret(kubectl, "kube-public") == {"url": values["redis"]["url"]}
    finally:
        kubectl("delete", "secret", "watchbill-redis", "--namespace=kube-public", "--ignore-not-found")


def _objects(rendered: str) -> dict[tuple[str, str], Any]:
    documents = [document for document in yaml.safe_load_all(rendered) if document]
    found = {
        (document["kind"], f"{document['metadata']['name']}{_suffix(document)}"): document for document in documents
    }
    assert len(found) == len(documents)
    return found


def _suffix(document: dict[str, Any]) -> str:
    # Roles of one name, in several namespaces.
    return f"@{document['metadata']['namespace']}" if document["kind"] in ("Role", "RoleBinding") else ""


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
    """What this ServiceAccount may do there beyond what every account may."""

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
