"""Prometheus and Alertmanager in a kind cluster, with the alerts of the chart, over the pods that its monitors choose.

The image is made of Debian's packages: nothing is pulled. There is no Prometheus operator, so the chart's
ServiceMonitor and PodMonitor become configuration here; and Debian's Prometheus finds no pods by itself, so
discovery.py does. Makes and changes only its own namespace, and a ClusterRole to find pods by.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import yaml

from e2e.cluster import discovery, docker, images, install, machine, monitoring
from e2e.cluster.discovery import as_label
from e2e.cluster.kind import Cluster
from e2e.cluster.machine import ClusterError, say

NAMESPACE: Final = "monitoring"
NAME: Final = "prometheus"
PORT, MANAGER_PORT, DISCOVERY_PORT = 9090, 9093, 9099
SCRAPE_SECONDS: Final = 5
READY_SECONDS: Final = 300
VALUES: Final = {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}, "alerts": {"enabled": True}}
"""Values of the chart that bring what is monitored here. `helm template` needs no CRDs of the Prometheus operator."""
LOOK: Final = f"""\
kubectl port-forward --namespace={NAMESPACE} svc/{NAME} {PORT} {MANAGER_PORT} &
make monitor PROMETHEUS=http://127.0.0.1:{PORT}
"""
"""Commands to look at the boards, in the folder of the clone."""

# Debian's: each program looks for its files where the package puts them.
_DOCKERFILE: Final = """\
ARG BASE
FROM $BASE
COPY bin /usr/bin
COPY share /usr/share/prometheus
COPY discovery.py /usr/lib/
USER 65534:65534
WORKDIR /tmp
"""
_PROGRAMS: Final = ("prometheus", "prometheus-alertmanager")
_NO_WRITES: Final = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def put_in(cluster: Cluster, *, release: str = install.RELEASE, namespace: str = "default") -> None:
    """Puts both into the cluster, over the release of the chart in that namespace, and waits until they are ready.

    Raises ClusterError where there are no such packages, or if the cluster is none of kind's.
    """
    if not cluster.kind_name:
        raise ClusterError("Only a kind cluster gets a Prometheus from here", "Use the one that your cluster has.")
    rendered = _rendered(cluster, release, namespace)
    cluster.kubectl.apply(*objects(_image(cluster), rendered))
    where = (f"--namespace={NAMESPACE}", f"--timeout={READY_SECONDS}s")
    cluster.kubectl("rollout", "status", f"deployment/{NAME}", *where, timeout=READY_SECONDS + 30)


def _image(cluster: Cluster) -> str:
    tree = monitoring.unpack() / "usr"
    with machine.lock("install"), docker.engine(), tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        say("building the image of Prometheus and Alertmanager")
        (context / "Dockerfile").write_text(_DOCKERFILE)
        (context / "bin").mkdir()
        for name in _PROGRAMS:
            shutil.copy(tree / "bin" / name, context / "bin")
        # Its web pages link to scripts of other packages, which nobody needs who looks at the boards.
        shutil.copytree(tree / "share" / "prometheus", context / "share", symlinks=True)
        shutil.copy(discovery.__file__, context)
        arguments = {"BASE": images.base_image()}
        made = install.built("monitoring", dockerfile=context / "Dockerfile", context=context, arguments=arguments)
        cluster.load(made)
        return made


def _rendered(cluster: Cluster, release: str, namespace: str) -> list[dict[str, Any]]:
    """The chart's monitors and alerts."""
    templates = [f"--show-only=templates/{name}.yaml" for name in ("monitors", "alerts")]
    words: tuple[str | Path, ...] = ("template", release, install.CHART, f"--namespace={namespace}", *templates)
    return list(yaml.safe_load_all(install.helm(cluster, *words, values=VALUES)))


def objects(image: str, rendered: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Makes the objects of the cluster. `rendered`: monitors and alerts of the chart."""
    (rules,) = (one["spec"] for one in rendered if one["kind"] == "PrometheusRule")
    monitors = [one for one in rendered if one["kind"] in _FOUND_AS]
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _named(NAME)}
    yield from _rights()
    files = {
        "prometheus.yaml": config([scrape(one) for one in monitors]),
        "rules.yaml": rules,
        "alertmanager.yaml": {"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]},
    }
    data = {name: yaml.safe_dump(value, sort_keys=False) for name, value in files.items()}
    yield {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _named(NAME), "data": data}
    yield _deployment(image, data)
    ports = [{"name": "http", "port": PORT}, {"name": "alertmanager", "port": MANAGER_PORT}]
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _named(NAME),
        "spec": {"selector": {"app": NAME}, "ports": ports},
    }


def _named(name: str) -> dict[str, Any]:
    return {"name": name, "namespace": NAMESPACE, "labels": {"app": NAME}}


def _rights() -> Iterator[dict[str, Any]]:
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": f"watchbill-{NAME}"}
    version = "rbac.authorization.k8s.io/v1"
    yield {
        "apiVersion": version,
        "kind": "ClusterRole",
        "metadata": {"name": role["name"]},
        "rules": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list"]},
        ],
    }
    yield {
        "apiVersion": version,
        "kind": "ClusterRoleBinding",
        "metadata": {"name": role["name"]},
        "roleRef": role,
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
    }


def _deployment(image: str, files: Mapping[str, str]) -> dict[str, Any]:
    def container(name: str, *command: str) -> dict[str, Any]:
        return {
            "name": name,
            "image": image,
            "imagePullPolicy": "Never",  # an image that is not on the node is an error, and no request to a registry
            "command": list(command),
            "securityContext": _NO_WRITES,
            "volumeMounts": [{"name": "config", "mountPath": "/config"}, {"name": "data", "mountPath": "/data"}],
        }

    def serving(name: str, program: str, port: int, *flags: str) -> dict[str, Any]:
        ready = {"httpGet": {"path": "/-/ready", "port": port}, "periodSeconds": 1}
        listens = {"ports": [{"containerPort": port}], "readinessProbe": ready}
        return {**container(name, program, f"--web.listen-address=:{port}", *flags), **listens}

    pod = {
        "serviceAccountName": NAME,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, "fsGroup": 65534},
        "containers": [
            serving(
                NAME,
                "prometheus",
                PORT,
                "--config.file=/config/prometheus.yaml",
                "--storage.tsdb.path=/data/prometheus",
            ),
            serving(
                "alertmanager",
                "prometheus-alertmanager",
                MANAGER_PORT,
                "--config.file=/config/alertmanager.yaml",
                "--storage.path=/data/alertmanager",
                "--cluster.listen-address=",
            ),
            container("discovery", "python3", "/usr/lib/discovery.py", str(DISCOVERY_PORT)),
        ],
        "volumes": [{"name": "config", "configMap": {"name": NAME}}, {"name": "data", "emptyDir": {}}],
    }
    # Neither reads a changed file by itself.
    digest = hashlib.sha256("".join(files.values()).encode()).hexdigest()
    annotations = {"watchbill-e2e/files": digest}
    spec = {
        "replicas": 1,
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": {"app": NAME}},
        "template": {"metadata": {"labels": {"app": NAME}, "annotations": annotations}, "spec": pod},
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": _named(NAME), "spec": spec}


# ------------------------------------------------------------------------------------------- the chart's monitors, read


_FOUND_AS: Final = {"ServiceMonitor": ("endpointslice", "endpoints"), "PodMonitor": ("pod", "podMetricsEndpoints")}
"""Kind → as what its targets are found, and where it names their port."""
_PORT_NAME: Final = {"endpointslice": "endpointslice_port_name", "pod": "pod_container_port_name"}


def config(scrapes: list[dict[str, Any]]) -> dict[str, Any]:
    """Prometheus' configuration."""
    return {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"},
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{MANAGER_PORT}"]}]}]},
        "rule_files": ["/config/rules.yaml"],
        "scrape_configs": scrapes,
    }


def scrape(monitor: Mapping[str, Any]) -> dict[str, Any]:
    """A ServiceMonitor or PodMonitor as a scrape configuration, as the Prometheus operator would make it; but scraped
    more often."""
    role, where = _FOUND_AS[monitor["kind"]]
    spec, metadata = monitor["spec"], monitor["metadata"]
    (endpoint,) = spec[where]
    asked = [("role", role), ("selector", _selector(spec["selector"]))]
    if not (chosen := spec.get("namespaceSelector", {})).get("any"):
        asked += [("namespace", name) for name in chosen.get("matchNames", [metadata["namespace"]])]
    url = f"http://127.0.0.1:{DISCOVERY_PORT}/?{urlencode(asked)}"
    labels = {
        "namespace": "namespace",
        "pod": "pod_name",
        **{as_label(name): f"pod_label_{as_label(name)}" for name in spec.get("podTargetLabels", [])},
    }
    return {
        "job_name": metadata["name"],
        "honor_labels": endpoint["honorLabels"],
        "metrics_path": endpoint["path"],
        "http_sd_configs": [{"url": url, "refresh_interval": f"{SCRAPE_SECONDS}s"}],
        "relabel_configs": [
            {"source_labels": [f"__meta_kubernetes_{_PORT_NAME[role]}"], "regex": endpoint["port"], "action": "keep"},
            *(
                {"source_labels": [f"__meta_kubernetes_{source}"], "target_label": label}
                for label, source in labels.items()
            ),
        ],
    }


def _selector(selector: Mapping[str, Any]) -> str:
    """A label selector as Kubernetes' API takes it. Raises KeyError on operators that the chart doesn't use."""
    parts = [f"{key}={value}" for key, value in selector.get("matchLabels", {}).items()]
    parts += [{"Exists": one["key"]}[one["operator"]] for one in selector.get("matchExpressions", [])]
    return ",".join(parts)
