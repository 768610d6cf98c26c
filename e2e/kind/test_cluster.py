"""A cluster that runs pods keeps what the other tests lean on, and lets no traffic out."""

from __future__ import annotations

import http.server
import json
import re
import secrets
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from e2e.cluster import docker, kind, machine
from e2e.cluster.kind import Cluster
from e2e.cluster.kubectl import Kubectl
from e2e.cluster.reading import Reader

UNUSED_SERVICE = "10.96.255.254"
OUTSIDE = "192.0.2.1"  # TEST-NET-1: belongs to nobody
AT_ONCE = 25.0  # seconds; what is dropped instead of refused takes 30 or more

# Prints how a connection ended, and after how many seconds.
CONNECT = """
import errno, json, socket, sys, time
began = time.monotonic()
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60).close()
    ended = "connected"
except OSError as error:
    ended = errno.errorcode.get(error.errno, str(error))
print(json.dumps([ended, time.monotonic() - began]))
"""
RESOLVE = """
import json, os, socket, sys, time
os.environ["RES_OPTIONS"] = "timeout:30 attempts:1"
began = time.monotonic()
try:
    found = socket.getaddrinfo(sys.argv[1], None, socket.AF_INET)[0][4][0]
except socket.gaierror as error:
    found = {socket.EAI_NONAME: "no such name"}.get(error.errno, str(error))
print(json.dumps([found, time.monotonic() - began]))
"""
# Answers any request with its pod's name.
SERVE = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = os.environ["HOSTNAME"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(name)))
        self.end_headers()
        self.wfile.write(name)
http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""


def container(image: str, *command: str) -> dict[str, Any]:
    # Never: an image that is not on the node is to be an error, not a request to a registry.
    return {"name": "main", "image": image, "imagePullPolicy": "Never", "command": list(command)}


def pod(name: str, image: str, *command: str) -> dict[str, Any]:
    spec = {"containers": [container(image, *command)], "terminationGracePeriodSeconds": 0, "restartPolicy": "Never"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


@pytest.fixture(scope="module")
def probe(kubectl: Kubectl, python_image: str, kind_cluster: Cluster) -> Iterator[Callable[..., Any]]:
    """Runs a script in a pod and gives what it printed, parsed."""
    name = f"e2e-probe-{secrets.token_hex(4)}"
    kubectl("create", "namespace", name)
    try:
        kubectl("wait", "serviceaccount/default", f"--namespace={name}", "--for=create", "--timeout=120s")
        manifest = pod("probe", python_image, "sleep", "infinity")
        if not kind_cluster.kind_name:
            manifest["spec"]["containers"][0]["imagePullPolicy"] = "IfNotPresent"
        kubectl.apply(manifest, namespace=name)
        kubectl("wait", "pod/probe", f"--namespace={name}", "--for=condition=Ready", "--timeout=300s", timeout=360)
        yield lambda script, *words: json.loads(
            kubectl("exec", "probe", f"--namespace={name}", "--", "python3", "-c", script, *map(str, words))
        )
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def ours(kind_cluster: Cluster) -> Cluster:
    if not kind_cluster.is_ours:
        pytest.skip("this cluster is not of our making")
    return kind_cluster


def test_a_pod_finds_the_dns_server_and_reaches_the_api_server(probe: Callable[..., Any], kubectl: Kubectl) -> None:
    address = kubectl.json("get", "service", "kubernetes", "--namespace=default")["spec"]["clusterIP"]
    found, _ = probe(RESOLVE, "kubernetes.default.svc")
    assert found == address
    ended, _ = probe(CONNECT, "kubernetes.default.svc", 443)
    assert ended == "connected"


def test_a_service_leads_to_both_of_its_pods_also_from_this_machine(
    kubectl: Kubectl, namespace: str, probe: Callable[..., Any], python_image: str, ours: Cluster
) -> None:
    labels = {"app": "names"}
    template: dict[str, Any] = {
        "metadata": {"labels": labels},
        "spec": {"containers": [container(python_image, "python3", "-c", SERVE)]},
    }
    template["spec"]["terminationGracePeriodSeconds"] = 0
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "names"},
        "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "names"},
        "spec": {"type": "NodePort", "selector": labels, "ports": [{"port": 80, "targetPort": 8000}]},
    }
    where = f"--namespace={namespace}"
    kubectl.apply(deployment, service, namespace=namespace)
    kubectl("rollout", "status", "deployment/names", where, "--timeout=300s", timeout=360)
    names = {item["metadata"]["name"] for item in kubectl.items("pods", where)}
    assert len(names) == 2
    read = Reader(ours.kubeconfig).get(("pods", where))  # as who the certificate says
    assert {item["metadata"]["name"] for item in read["items"]} == names

    port = kubectl.json("get", "service", "names", where)["spec"]["ports"][0]["nodePort"]
    with kubectl.port_forward("service/names", 80, namespace=namespace) as forwarded:
        assert _get(f"http://127.0.0.1:{forwarded}") in names
    seen: set[str] = set()

    def both() -> bool:
        seen.add(_get(f"http://{ours.node_address()}:{port}"))
        return seen == names

    machine.until(both, within=180, what=f"both of {names}", ignoring=(OSError,))
    ended, _ = probe(CONNECT, f"names.{namespace}.svc", 80)
    assert ended == "connected"


def test_a_pod_reaches_this_machine(probe: Callable[..., Any], ours: Cluster) -> None:
    server = http.server.HTTPServer((ours.host_address(), 0), http.server.BaseHTTPRequestHandler)
    with server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        ended, _ = probe(CONNECT, *server.server_address)
        assert ended == "connected"
        thread.join(60)


@pytest.mark.parametrize("address", [UNUSED_SERVICE, OUTSIDE], ids=["unused service", "outside"])
def test_no_traffic_of_a_pod_leaves_the_cluster(probe: Callable[..., Any], ours: Cluster, address: str) -> None:
    refused_on_node, refused_on_bridge = _refused_on_nodes(ours), _refused_on_bridge()

    ended, seconds = probe(CONNECT, address, 9)

    assert ended == "ECONNREFUSED"
    assert seconds < AT_ONCE
    if refused_on_node is not None:  # on a node of our own image, which has a chain for it
        refused_now = _refused_on_nodes(ours)
        assert refused_now is not None
        assert refused_now > refused_on_node
        assert _refused_on_bridge() == refused_on_bridge, "a packet left its node"


def test_no_traffic_of_a_node_leaves_this_machine(ours: Cluster) -> None:
    before = _refused_on_bridge()
    connect = f"</dev/tcp/{OUTSIDE}/9"
    with pytest.raises(machine.ClusterError, match="Connection refused"):
        docker.docker("exec", ours.nodes()[0], "timeout", "60", "bash", "-c", connect)
    assert _refused_on_bridge() > before


def test_names_outside_the_cluster_are_asked_of_nobody(probe: Callable[..., Any], ours: Cluster) -> None:
    found, seconds = probe(RESOLVE, "watchbill.example")
    assert found == "no such name"
    assert seconds < AT_ONCE


def test_a_pod_runs_an_image_that_was_loaded_under_a_new_tag(
    kubectl: Kubectl, namespace: str, load_image: Callable[[str], str], python_image: str, ours: Cluster
) -> None:
    image = f"watchbill-e2e/loaded:{secrets.token_hex(4)}"
    docker.docker("tag", python_image, image)
    try:
        kubectl.apply(pod("loaded", load_image(image), "python3", "-c", "print('it runs')"), namespace=namespace)
        where = f"--namespace={namespace}"
        kubectl("wait", "pod/loaded", where, "--for=jsonpath={.status.phase}=Succeeded", "--timeout=300s", timeout=360)
        assert kubectl("logs", "loaded", where) == "it runs\n"
    finally:
        docker.docker("image", "rm", image)


def test_a_cluster_of_the_current_kubeconfig_is_used_as_it_is(ours: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(ours.kubeconfig))
    current = kind.current()
    assert current.kind_name == ours.kind_name
    assert current.nodes() == ours.nodes()


def test_a_second_cluster_of_a_name_is_refused(ours: Cluster) -> None:
    with pytest.raises(machine.ClusterError, match="already"):
        kind.up(ours.kind_name)


def _get(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=60) as response:
        return response.read().decode()


def _refused_on_nodes(cluster: Cluster) -> int | None:
    total = 0
    for node in cluster.nodes():
        try:
            total += _packets(docker.docker("exec", node, "iptables", "-w", "-nvxL", "E2E-EGRESS"))
        except machine.ClusterError:
            return None
    return total


def _refused_on_bridge() -> int:
    return _packets(machine.run([machine.which("iptables") or "", "-w", "-nvxL", "DOCKER-USER"]))


def _packets(listing: str) -> int:
    counts = re.findall(r"^\s*(\d+)\s+\d+\s+REJECT", listing, re.MULTILINE)
    assert counts, listing
    return sum(map(int, counts))
