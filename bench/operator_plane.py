"""The parts that the operator's benches have in common: accounts on a control plane, crews, and a process' own figures.

The control plane is bare: etcd, API server, controllers and scheduler, but no pods.
"""

from __future__ import annotations

import collections
import http.client
import os
import platform
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import ours
from bench.operator_watch import Object
from e2e.cluster import machine, recipe
from e2e.cluster.control_plane import ControlPlane, Write
from e2e.cluster.machine import ClusterError
from e2e.control_plane.operator_process import Process, Store

from watchbill import cluster_names

NAMESPACE = "bench"
ACCOUNT_NAMESPACE = "watchbill-system"

CONTROLLER_FLAGS = ("--kube-api-qps=500", "--kube-api-burst=1000")
"""Its own 20 requests per second would be what is measured: ReplicaSets of 500 Deployments in 25 s."""
PROGRAMS = ("kube-apiserver", "etcd", "kube-controller-manager", "kube-scheduler")
START_SECONDS = 60.0


def surroundings(load: float) -> dict[str, Any]:
    """Returns the conditions of a measurement that ends now. `load`: the load average when it began."""
    return {
        "Python": platform.python_version(),
        "cores": os.cpu_count(),
        "load average at start, at end": f"{load:.1f}, {os.getloadavg()[0]:.1f}",
    }


def prepare(plane: ControlPlane, store: Store, *accounts: str) -> list[Path]:
    """Returns a kubeconfig for each account: users of their own, so that the audit log tells whose a write is."""
    kubectl = plane.kubectl
    for crd in sorted((recipe.HERE.parent.parent / "crds").glob("*.yaml")):
        kubectl("apply", "--server-side", "--filename", crd)
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/crews.watchbill.dev")
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/heartbeats.watchbill.dev")
    for namespace in (NAMESPACE, ACCOUNT_NAMESPACE):
        kubectl("create", "namespace", namespace)
    subjects = [{"kind": "ServiceAccount", "name": name, "namespace": ACCOUNT_NAMESPACE} for name in accounts]
    for name in accounts:
        metadata = {"name": name, "namespace": ACCOUNT_NAMESPACE}
        kubectl.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    kubectl.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "watchbill-bench-operator"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": subjects,
        }
    )
    key = f"--from-literal={cluster_names.REDIS_SECRET_KEY}={store.url}"
    kubectl("create", "secret", "generic", cluster_names.REDIS_SECRET, key, f"--namespace={NAMESPACE}")
    return [plane.service_account_kubeconfig(ACCOUNT_NAMESPACE, name) for name in accounts]


def user(account: str) -> str:
    """Returns the account's name in the audit log."""
    return f"system:serviceaccount:{ACCOUNT_NAMESPACE}:{account}"


def crew(name: str, agent: str = "EchoAgent", **spec: Any) -> Object:
    """Returns a Crew with one agent, `echo`, of the class `agent`."""
    return {
        "apiVersion": f"{cluster_names.API_GROUP}/{cluster_names.API_VERSION}",
        "kind": "Crew",
        "metadata": {"name": name},
        "spec": {"agents": [{"name": "echo", "class": agent}], **spec},
    }


def path(plural: str) -> str:
    """Returns the API server's path of our resources of that kind."""
    return f"/apis/{cluster_names.API_GROUP}/{cluster_names.API_VERSION}/namespaces/{NAMESPACE}/{plural}"


def deployments_path() -> str:
    return f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"


def counted(writes: Sequence[Write]) -> dict[str, int]:
    """By what was done to which resource; refused ones apart."""

    def label(write: Write) -> str:
        subresource = f"/{write.subresource}" if write.subresource else ""
        refused = f" refused with {write.code}" if write.code >= 400 else ""
        return f"{write.verb} {write.resource}{subresource}{refused}"

    return dict(sorted(collections.Counter(map(label, writes)).items()))


def cpu_of(plane: ControlPlane, operator: Process | None = None, store: Store | None = None) -> dict[str, float]:
    """Returns the CPU time in s that each program has used so far. `bench` is this process, with its children that have
    ended."""
    found = {} if operator is None else {"operator": ours.cpu_seconds(pid(operator))}
    found |= {name: ours.cpu_seconds(plane.pid(name)) for name in PROGRAMS}
    if store is not None:
        used: Any = store.client.info("cpu")
        found["store"] = used["used_cpu_user"] + used["used_cpu_sys"]
    times = os.times()
    return {**found, "bench": times.user + times.system + times.children_user + times.children_system}


def reconciles(port: int) -> float:
    """Returns how many reconciliations the operator with this health port has done."""
    lines = get(port, "/metrics").splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("watchbill_operator_reconciles_total"))


def memory(process: Process) -> dict[str, float]:
    """Returns the memory in MiB that the process has now, and the most that it has had."""
    lines = Path(f"/proc/{pid(process)}/status").read_text().splitlines()
    kibibytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return {"RSS": kibibytes["VmRSS"] / 1024, "peak": kibibytes["VmHWM"] / 1024}


def pid(process: Process) -> int:
    assert process._process is not None  # it does not tell its pid
    return process._process.pid


def until_ready(operator: Process, port: int) -> None:
    """Waits until the operator, which was started with this health port, is Ready."""
    machine.until(
        lambda: operator.exit_code() is not None or get(port, "/readyz") == "ready\n",
        within=START_SECONDS,
        what="the operator is ready",
    )
    if operator.exit_code() is not None:
        raise ClusterError(f"the operator ended by itself, with exit code {operator.exit_code()}")


def get(port: int, path: str) -> str:
    """Returns what a process of ours answers at this path, without regard to the status; empty: nothing."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
