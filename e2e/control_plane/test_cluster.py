"""The bare control plane keeps what tests of the operator lean on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from e2e.cluster import machine, recipe
from e2e.cluster.control_plane import ADMIN, ControlPlane, Write
from e2e.cluster.kubectl import Kubectl, KubectlError
from e2e.cluster.reading import Reader
from e2e.control_plane import access
from e2e.control_plane.manifests import crew, heartbeat

DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "some"},
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "some"}},
        "template": {
            "metadata": {"labels": {"app": "some"}},
            "spec": {"containers": [{"name": "main", "image": "none"}]},
        },
    },
}


def test_it_is_the_kubernetes_of_the_recipe(kubectl: Kubectl) -> None:
    version = kubectl.json("version")
    assert version["serverVersion"]["gitVersion"] == f"v{recipe.KUBERNETES}"
    assert version["clientVersion"]["gitVersion"] == f"v{recipe.KUBERNETES}"


def test_controllers_make_the_pods_of_a_deployment_and_collect_what_has_lost_its_owner(
    kubectl: Kubectl, namespace: str
) -> None:
    def pods() -> list[object]:
        return kubectl.items("pods", f"--namespace={namespace}")

    kubectl.apply(DEPLOYMENT, namespace=namespace)
    machine.until(lambda: len(pods()) == 2, within=180, what="two pods")
    kubectl("delete", "deployment", "some", f"--namespace={namespace}", "--cascade=background")
    machine.until(lambda: not pods(), within=180, what="no pods")


def test_what_is_read_without_kubectl_is_what_kubectl_prints(kubectl_here: Kubectl, namespace: str) -> None:
    where, reader = f"--namespace={namespace}", Reader(kubectl_here.kubeconfig)
    assert reader.get(("deployment", "some", where)) is None
    with pytest.raises(KubectlError, match='"some" not found'):
        kubectl_here.json("get", "deployment", "some", where)

    kubectl_here.apply(DEPLOYMENT, crew(), heartbeat(), namespace=namespace)
    kubectl_here("create", "secret", "generic", "some", "--from-literal=a=b", where)
    machine.until(lambda: len(kubectl_here.items("pods", where)) == 2, within=180, what="two pods")
    for words in (
        ("deployment", "some"),
        ("deployments",),
        ("crew/blog-team",),
        ("crews",),
        ("heartbeats", "morning"),
        ("secret", "some"),
        ("pods",),
        ("pods", "--selector=app in (some,other)"),
        ("pods", "--selector=app!=some"),
        ("events.events.k8s.io",),
    ):

        def same(words: tuple[str, ...] = words) -> bool:
            return bool(reader.get((*words, where)) == json.loads(kubectl_here("get", *words, where, "--output=json")))

        machine.until(same, within=180, what=f"{words} are the same to both, and change no more")
    for others in (("pods",), ("pods", where, "--watch"), ("pods,secrets", where), ("pods", "-A"), ("nodes", where)):
        assert reader.get(others) is None, f"{others} are for kubectl"


def test_every_write_is_on_record_once_and_no_read(
    control_plane: ControlPlane, audit_writes: Callable[..., list[Write]], kubectl: Kubectl, namespace: str
) -> None:
    since = control_plane.audit_position()
    where = f"--namespace={namespace}"
    kubectl("create", "configmap", "one", where)
    kubectl("get", "configmaps", where)
    kubectl("patch", "configmap", "one", where, '--patch={"data": {"a": "b"}}')
    with pytest.raises(KubectlError, match="already exists"):
        kubectl("create", "configmap", "one", where)
    kubectl("delete", "configmap", "one", where)

    def mine() -> list[tuple[str, str, int]]:
        writes = audit_writes(since, user=ADMIN)
        assert {write.namespace for write in writes} <= {namespace}
        return [(write.verb, write.resource, write.code) for write in writes]

    expected = [("create", 201), ("patch", 200), ("create", 409), ("delete", 200)]
    assert mine() == [(verb, "configmaps", code) for verb, code in expected]


def test_a_service_accounts_kubeconfig_has_its_rights_and_its_name(
    control_plane: ControlPlane, audit_writes: Callable[..., list[Write]], kubectl: Kubectl, namespace: str
) -> None:
    where = f"--namespace={namespace}"
    kubectl("create", "serviceaccount", "operator", where)
    kubectl("create", "role", "configmaps", "--verb=create", "--resource=configmaps", where)
    account = f"--serviceaccount={namespace}:operator"
    kubectl("create", "rolebinding", "configmaps", "--role=configmaps", account, where)
    operator = Kubectl(kubectl.program, control_plane.service_account_kubeconfig(namespace, "operator"))

    access.until_known(control_plane, namespace)
    operator("create", "configmap", "one")
    with pytest.raises(KubectlError, match="is forbidden"):
        operator("create", "serviceaccount", "other")

    user = f"system:serviceaccount:{namespace}:operator"
    assert [write.code for write in audit_writes(user=user)] == [201, 403]


def test_a_write_is_counted_once_it_has_come_and_not_where_its_answer_is_on_record_late(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path)  # never started: its record alone is read

    def record(stage: str, name: str, *, user: str = ADMIN) -> None:
        target = {"resource": "crews", "name": name}
        event = {"auditID": name, "stage": stage, "verb": "create", "user": {"username": user}, "objectRef": target}
        with plane.audit_log.open("a") as log:
            log.write(json.dumps({**event, "requestURI": "/", "stageTimestamp": ""}) + "\n")

    record("RequestReceived", "before")
    since = plane.audit_position()
    record("ResponseComplete", "before")
    record("RequestReceived", "answered-later")
    record("RequestReceived", "of-another-user", user="other")
    answers = threading.Timer(0.5, record, ("ResponseComplete", "answered-later"))
    answers.start()
    try:
        assert [write.name for write in plane.writes(since, user=ADMIN)] == ["answered-later"]
    finally:
        answers.join()


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_the_api_server_comes_back_in_place_with_all_its_objects(
    control_plane: ControlPlane, kubectl: Kubectl, namespace: str, kill: bool
) -> None:
    kubectl("create", "configmap", "before", f"--namespace={namespace}")
    url, pid, etcd = control_plane.url, control_plane.pid("kube-apiserver"), control_plane.pid("etcd")
    position = control_plane.audit_position()

    control_plane.restart_api_server(kill=kill)

    assert control_plane.url == url
    assert control_plane.pid("kube-apiserver") != pid
    assert control_plane.pid("etcd") == etcd
    assert machine.start_time(pid) is None
    kubectl("get", "configmap", "before", f"--namespace={namespace}")
    # Controllers find it again by themselves, and the record goes on.
    kubectl.apply(DEPLOYMENT, namespace=namespace)
    pods = ("pods", f"--namespace={namespace}")
    machine.until(lambda: len(kubectl.items(*pods)) == 2, within=180, what="two pods after the restart")
    assert any(write.resource == "deployments" for write in control_plane.writes(position, user=ADMIN))


# A process that runs a control plane of its own, says which processes that is, and waits.
OWNER = """
    import json, pathlib, signal, sys, time
    from e2e.cluster import control_plane
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell starts in the background
    names = "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"
    with control_plane.running(pathlib.Path(sys.argv[1])) as plane:
        print(json.dumps([plane.pid(name) for name in names]), flush=True)
        {then}
"""


@pytest.mark.parametrize(
    ("then", "by", "code"),
    [
        ("raise RuntimeError('a test failed')", None, 1),
        ("time.sleep(600)", signal.SIGINT, -signal.SIGINT),
        ("time.sleep(600)", signal.SIGKILL, -signal.SIGKILL),
    ],
    ids=["failed", "interrupted", "killed"],
)
def test_no_process_outlives_its_owner(tmp_path: Path, then: str, by: signal.Signals | None, code: int) -> None:
    if by == signal.SIGKILL and not machine.which("setpriv"):
        pytest.skip("without setpriv nothing ends the processes of a killed owner")
    script = textwrap.dedent(OWNER).format(then=then)
    command = [sys.executable, "-c", script, str(tmp_path)]
    owner = subprocess.Popen(command, cwd=recipe.HERE.parent.parent, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with owner:
        assert owner.stdout
        pids = json.loads(owner.stdout.readline())
        assert len(set(pids)) == 4
        if by:
            os.kill(owner.pid, by)
        assert owner.wait(120) == code
    for pid in pids:
        machine.until(lambda pid=pid: machine.start_time(pid) is None, within=180, what=f"process {pid} has ended")  # type: ignore[misc]


PORTS_TWICE = """
from e2e.cluster import control_plane
control_plane.PORTS = range(32_000, 32_400)
print(*control_plane.free_ports(60), *control_plane.free_ports(60), flush=True)
input()
"""


def test_a_port_is_given_once_however_many_processes_ask(tmp_path: Path) -> None:
    command, environment = (sys.executable, "-c", PORTS_TWICE), {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    pipe = subprocess.PIPE
    with ExitStack() as stack:
        asked = []
        for _ in range(2):
            process = subprocess.Popen(
                command, cwd=recipe.HERE.parent.parent, env=environment, stdin=pipe, stdout=pipe, text=True
            )
            asked.append(stack.enter_context(process))
            stack.callback(process.kill)
        ports = [port for process in asked if process.stdout for port in process.stdout.readline().split()]
        assert len(ports) == len(set(ports)) == 240
