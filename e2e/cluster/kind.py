"""Clusters that run pods: made with kind on this machine's Docker, or the one of the current kubeconfig.

What runs in a cluster of ours reaches itself and this machine, and nothing else: a firewall rule on the bridge of our
own Docker network, a chain on every node, and a DNS server that forwards nothing. Removes only what it made.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import docker, images, machine, programs, recipe
from e2e.cluster.docker import docker as run_docker
from e2e.cluster.kubectl import Kubectl, KubectlError
from e2e.cluster.machine import ClusterError, say

# The Docker network and its bridge. Not kind's own, which holds clusters that are none of ours.
NETWORK = recipe.NAME
READY_SECONDS = 300.0
KIND_DEFAULT = "kind's default"  # by name and digest, known to kind only

_RULE = ["-i", NETWORK, "!", "-o", NETWORK, "-j", "REJECT"]
# kubeadm's, but for names outside the cluster: instead of asking this machine's name server, and that one the world, it
# says that there are none.
_COREFILE = """\
cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       ttl 30
    }
    prometheus :9153
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loadbalance
}
.:53 {
    template ANY ANY {
       rcode NXDOMAIN
    }
}
"""

_KUBELET = {"kind": "KubeletConfiguration", "failCgroupV1": False}
# Otherwise a new Service answers only after more than a second.
_PROXY = {"kind": "KubeProxyConfiguration", "iptables": {"minSyncPeriod": "100ms"}}


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs pods."""

    kubeconfig: Path
    kubectl: Kubectl
    kind_name: str  # empty: not one of kind's on this machine
    image: str  # of its nodes, empty likewise

    @property
    def is_ours(self) -> bool:
        """True if up() made it, so that nothing in it can leave."""
        return bool(self.kind_name) and self.kubeconfig.parent == _folder(self.kind_name)

    def load(self, *images: str) -> None:
        """Puts local images on every node: 5 to 11 s per 150 MB. Use a new tag for each build, never `latest`.

        A cluster that is not kind's gets its images from where it gets all: there this does nothing.
        """
        if self.kind_name:
            command: list[str | Path] = [
                programs.path("kind"),
                "load",
                "docker-image",
                *images,
                "--name",
                self.kind_name,
            ]
            machine.run(command, env=_kind_environment(), timeout=900)

    def nodes(self) -> list[str]:
        """The names of its nodes; a kind node's is its container's too."""
        return [node["metadata"]["name"] for node in self.kubectl.items("nodes")]

    def node_address(self) -> str:
        """The address at which this machine reaches NodePorts."""
        addresses = self.kubectl.items("nodes")[0]["status"]["addresses"]
        return next(str(address["address"]) for address in addresses if address["type"] == "InternalIP")

    def host_address(self) -> str:
        """The address at which pods reach this machine."""
        return run_docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", NETWORK).strip()


def current() -> Cluster:
    """The cluster of the current kubeconfig. Nothing is built, made or removed."""
    found = next((path for path in os.environ.get("KUBECONFIG", "").split(os.pathsep) if path), "~/.kube/config")
    kubeconfig = Path(found).expanduser()
    if not kubeconfig.exists():
        raise ClusterError(f"E2E_USE_CLUSTER is set, and there is no {str(kubeconfig)!r}", "Set KUBECONFIG.")
    built = programs.folder() / "kubectl"
    program = built if built.exists() else machine.which("kubectl")
    if not program:
        raise ClusterError(
            "There is no kubectl on this machine", "Install it: python -m e2e.cluster build control-plane"
        )
    kubectl = Kubectl(program, kubeconfig, cache=recipe.cache() / "kubectl-cache")
    context = kubectl("config", "current-context").strip()
    name = context.removeprefix("kind-") if context.startswith("kind-") else ""
    image = _image_of(name) if name else ""
    return Cluster(kubeconfig, kubectl, name if image else "", image)


def existing(name: str) -> Cluster | None:
    """The cluster of that name that up() has made."""
    kubeconfig = _folder(name) / "kubeconfig"
    if not kubeconfig.exists() or not docker.answers():
        return None
    image = _image_of(name)
    return Cluster(kubeconfig, Kubectl(programs.path("kubectl"), kubeconfig), name, image) if image else None


def up(name: str, *, workers: int = 0) -> Cluster:
    """Makes a cluster, on a Docker engine that it starts if none answers. It stays until down().

    Raises ClusterError if there is one of that name, or if it cannot be made, tried twice.
    """
    for program in programs.PARTS["kind"]:
        programs.path(program)
    with docker.engine():
        _check_machine()
        if _image_of(name):
            raise ClusterError(f"There is a cluster {name!r} already", f"Remove it: python -m e2e.cluster down {name}")
        _isolate()
        image = node_image()
        for attempt in (1, 2):
            say(f"creating the cluster {name!r} on {image}")
            try:
                return _create(name, image, workers)
            except (ClusterError, KubectlError, TimeoutError) as error:
                _remove(name)
                if attempt == 2:
                    raise ClusterError(f"The cluster {name!r} could not be made, tried twice: {error}") from error
                say(f"trying once more: {error}")
            except BaseException:
                _remove(name)
                raise
    raise AssertionError("unreachable")


def down(name: str) -> None:
    """Removes the cluster, if there is one; after the last one network, firewall rule and a Docker engine of ours."""
    if docker.answers() or _folder(name).exists():  # its containers outlive an engine
        with docker.engine():
            if _image_of(name):
                say(f"removing the cluster {name!r}")
            _remove(name)
            _end_isolation()


def node_image() -> str:
    """E2E_NODE_IMAGE, else the one built here, else kind's own public one."""
    given = os.environ.get("E2E_NODE_IMAGE", "")
    return given or (recipe.node_image() if images.node_image_is_built() else KIND_DEFAULT)


def _create(name: str, image: str, workers: int) -> Cluster:
    folder = _folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    kubeconfig = folder / "kubeconfig"
    config = {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "networking": {"ipFamily": "ipv4"},
        "nodes": [{"role": "control-plane"}, *({"role": "worker"} for _ in range(workers))],
        "kubeadmConfigPatches": [json.dumps(_KUBELET), json.dumps(_PROXY)],
    }
    command: list[str | Path] = [programs.path("kind"), "create", "cluster", "--name", name]
    command += ["--kubeconfig", kubeconfig, "--config", "-"]
    if image != KIND_DEFAULT:
        command += ["--image", image]
    machine.run(command, stdin=json.dumps(config), env=_kind_environment(), timeout=900)
    cluster = Cluster(kubeconfig, Kubectl(programs.path("kubectl"), kubeconfig), name, image)
    _forward_no_names(cluster.kubectl)
    cluster.kubectl("wait", "node", "--all", "--for=condition=Ready", f"--timeout={READY_SECONDS:.0f}s", timeout=360)
    dns = "deployment/coredns"
    cluster.kubectl("rollout", "status", dns, "--namespace=kube-system", f"--timeout={READY_SECONDS:.0f}s", timeout=360)
    account = ("get", "serviceaccount", "default", "--namespace=default")
    machine.until(lambda: cluster.kubectl(*account), within=180, what="default account", ignoring=(KubectlError,))
    return cluster


def _forward_no_names(kubectl: Kubectl) -> None:
    where = "--namespace=kube-system"
    kubectl("patch", "configmap", "coredns", where, f"--patch={json.dumps({'data': {'Corefile': _COREFILE}})}")
    # One is enough; the annotation makes sure that none runs with the old configuration.
    annotations = {"watchbill-e2e/forwards": "nothing"}
    patch = {"spec": {"replicas": 1, "template": {"metadata": {"annotations": annotations}}}}
    kubectl("patch", "deployment", "coredns", where, f"--patch={json.dumps(patch)}")


def _remove(name: str) -> None:
    # Without the kind program, which a changed recipe may not have built yet. Its nodes are containers, and no more.
    label = f"label=io.x-k8s.kind.cluster={name}"
    nodes = run_docker("ps", "--all", "--quiet", "--filter", label).split()
    if nodes:
        run_docker("rm", "--force", "--volumes", *nodes)
    shutil.rmtree(_folder(name), ignore_errors=True)


def _check_machine() -> None:
    if not (machine.is_root() and machine.which("iptables")):
        raise ClusterError(
            "A cluster of ours needs root and iptables: what runs in it is kept from leaving by a firewall rule",
            "Run this as root on Linux, or use another: E2E_USE_CLUSTER=1 takes that of the current kubeconfig.",
        )
    if not machine.may_raise_limits():
        runtime = run_docker("info", "--format", "{{.DefaultRuntime}}").strip()
        if runtime != docker.RUNTIME:
            raise ClusterError(
                "This machine withholds CAP_SYS_RESOURCE, and its Docker engine does not know: no node would start",
                "Stop the engine, and let `python -m e2e.cluster docker start` start it.",
            )


def _isolate() -> None:
    if not run_docker("network", "ls", "--quiet", "--filter", f"name=^{NETWORK}$").strip():
        options = (f"com.docker.network.bridge.name={NETWORK}", "com.docker.network.driver.mtu=1500")
        run_docker("network", "create", "--driver=bridge", *(f"--opt={option}" for option in options), NETWORK)
    if not _has_rule():
        _iptables("--insert", *_RULE)


def _end_isolation() -> None:
    if run_docker("network", "ls", "--quiet", "--filter", f"name=^{NETWORK}$").strip():
        if run_docker("network", "inspect", "--format", "{{len .Containers}}", NETWORK).strip() != "0":
            return
        run_docker("network", "rm", NETWORK)
    if machine.is_root() and machine.which("iptables") and _has_rule():
        _iptables("--delete", *_RULE)


def _has_rule() -> bool:
    return machine.succeeds([machine.which("iptables") or "", "--wait", "--check", "DOCKER-USER", *_RULE])


def _iptables(action: str, *words: str) -> None:
    machine.run([machine.which("iptables") or "", "--wait", action, "DOCKER-USER", *words])


def _image_of(name: str) -> str:
    # Of a cluster's nodes; empty if there is no such cluster.
    labels = ("label=io.x-k8s.kind.cluster=" + name, "label=io.x-k8s.kind.role=control-plane")
    filters = [word for label in labels for word in ("--filter", label)]
    return run_docker("ps", "--all", *filters, "--format", "{{.Image}}").strip()


def _folder(name: str) -> Path:
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", name):
        raise ClusterError(f"{name!r} cannot name a cluster", "Use lower-case letters, digits and dashes.")
    return recipe.cache() / "clusters" / name


def _kind_environment() -> dict[str, str]:
    return {**docker.environment(), "KIND_EXPERIMENTAL_DOCKER_NETWORK": NETWORK}
