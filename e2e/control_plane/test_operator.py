"""The operator as a process on a bare control plane, with a real store. No pods run: where work is to be done, a worker
is started by the test.

Asserted is the state of the world: what the API server and the store have, and in the audit log, who wrote.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import machine, recipe
from e2e.cluster.control_plane import ControlPlane, Write
from e2e.cluster.kubectl import Kubectl, KubectlError
from e2e.control_plane import operator_process
from e2e.control_plane.operator_process import Process, Store, hold
from watchbill import client

ROOT = recipe.HERE.parent.parent
ACCOUNT_NAMESPACE, ACCOUNT = "watchbill-system", "operator"
OPERATOR = f"system:serviceaccount:{ACCOUNT_NAMESPACE}:{ACCOUNT}"

SOON = 15.0
"""Seconds: for what should take one, on a busy machine."""


@pytest.fixture(scope="module")
def kubeconfig(control_plane: ControlPlane) -> Path:
    """The operator's own user, so that the audit log tells its writes; and our CRDs."""
    kubectl = control_plane.kubectl
    for crd in sorted((ROOT / "crds").glob("*.yaml")):
        kubectl("apply", "--server-side", "--filename", crd)
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/crews.watchbill.dev")
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/heartbeats.watchbill.dev")
    kubectl.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ACCOUNT_NAMESPACE}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": ACCOUNT_NAMESPACE}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "watchbill-e2e-operator"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": ACCOUNT_NAMESPACE}],
        },
    )
    return control_plane.service_account_kubeconfig(ACCOUNT_NAMESPACE, ACCOUNT)


@pytest.fixture
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="wb-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = Store(Path(folder))
        try:
            made.start()
            yield made
        finally:
            made.client.close()
            made.kill()


class Team:
    """One namespace with its crews, the operator that keeps them, and the store."""

    def __init__(
        self, kubectl: Kubectl, namespace: str, store: Store, folder: Path, new_operator: Callable[..., Process]
    ) -> None:
        self._kubectl = kubectl
        self.namespace = namespace
        self.store = store
        self.folder = folder
        self.new_operator = new_operator

    def kubectl(self, *words: str | Path, **more: Any) -> str:
        return self._kubectl(*words, f"--namespace={self.namespace}", **more)

    def operator(self, **settings: str) -> Process:
        return self.new_operator(**settings)

    def worker(self, crew: str) -> Process:
        return operator_process.worker(f"{self.namespace}/{crew}", self.store.url, self.folder)

    def apply(self, *objects: dict[str, Any]) -> None:
        self._kubectl.apply(*objects, namespace=self.namespace)

    def crew(self, name: str = "echo") -> dict[str, Any]:
        return self._kubectl.json("get", "crew", name, f"--namespace={self.namespace}")

    def conditions(self, name: str = "echo", kind: str = "crew") -> dict[str, tuple[str, str, str]]:
        seen = self._kubectl.json("get", kind, name, f"--namespace={self.namespace}")
        found = seen.get("status", {}).get("conditions", [])
        return {c["type"]: (c["status"], c["reason"], c["message"]) for c in found}

    def until_ready(self, *names: str, within: float = SOON) -> None:
        for name in names or ("echo",):
            machine.until(
                lambda name=name: self.conditions(name).get("Ready", ("",))[0] == "True",
                within=within,
                what=f"{name} is ready",
            )

    def until_stalled(self, name: str, reason: str, *, kind: str = "crew", within: float = SOON) -> str:
        """The message."""

        def said() -> str:
            status, why, message = self.conditions(name, kind).get("Stalled", ("", "", ""))
            return message if (status, why) == ("True", reason) else ""

        return machine.until(said, within=within, what=f"{name} is stalled for {reason}")

    def deployments(self, crew: str = "echo") -> list[dict[str, Any]]:
        return self._kubectl.items(
            "deployments", f"--selector=watchbill.dev/crew={crew}", f"--namespace={self.namespace}"
        )

    def replicas(self, crew: str = "echo") -> int:
        return sum(d["spec"]["replicas"] for d in self.deployments(crew))

    def submit(self, crew: str = "echo", prompt: str = "hi", count: int = 1) -> None:
        async def work() -> None:
            async with client.Client(self.store.url) as own:
                for _ in range(count):
                    await own.submit(f"{self.namespace}/{crew}", prompt)

        asyncio.run(work())

    def stored(self, crew: str = "echo") -> set[str]:
        return self.store.keys_of(self.namespace, crew)

    def meta(self, crew: str = "echo") -> dict[str, str]:
        return self.store.client.hgetall(f"wb:{{{self.namespace}/{crew}}}:meta")  # type: ignore[return-value]


@pytest.fixture
def team(kubectl: Kubectl, kubeconfig: Path, namespace: str, store: Store, tmp_path: Path) -> Iterator[Team]:
    """An operator that watches this namespace only is `team.operator()`; killed when the test ends."""
    started: list[Process] = []

    def new_operator(**settings: str) -> Process:
        mine = {"watch_namespaces": namespace, "resync_seconds": "300", **settings}
        made = operator_process.operator(kubeconfig, store.url, tmp_path, **mine)
        started.append(made)
        return made.start()

    kubectl("create", "secret", "generic", "watchbill-redis", f"--from-literal=url={store.url}", f"-n={namespace}")
    try:
        yield Team(kubectl, namespace, store, tmp_path, new_operator)
    finally:
        for one in started:
            one.kill()
            print("--- the operator said:", *one.said()[-40:], sep="\n")


def crew(name: str = "echo", *, agents: tuple[str, ...] = ("a",), spec: Any = None, **workers: Any) -> dict[str, Any]:
    return {
        "apiVersion": "watchbill.dev/v1alpha1",
        "kind": "Crew",
        "metadata": {"name": name},
        "spec": {
            "agents": [{"name": a, "class": "EchoAgent"} for a in agents],
            "workers": workers,
            **(spec or {}),
        },
    }


def heartbeat(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "watchbill.dev/v1alpha1",
        "kind": "Heartbeat",
        "metadata": {"name": name},
        "spec": {"crewRef": {"name": "echo"}, **spec},
    }


# ---------------------------------------------------------------- a crew comes to life, works and goes


def test_a_crew_gets_all_it_needs_and_becomes_ready(team: Team):
    team.operator(watch_namespaces="")  # the whole cluster
    team.apply(crew())
    team.kubectl("wait", "crew/echo", "--for=condition=Ready", "--timeout=20s")

    seen = team.crew()
    uid = seen["metadata"]["uid"]
    assert seen["status"]["observedGeneration"] == seen["metadata"]["generation"] == 1
    assert "finalizers" not in seen["metadata"]
    (deployment,) = team.deployments()
    assert deployment["spec"]["replicas"] == 0
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    accounts = team._kubectl.items("serviceaccounts", f"--namespace={team.namespace}")
    (own,) = [a for a in accounts if a["metadata"]["name"] == account]
    for child in (deployment, own):
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"], owner["controller"]) == ("Crew", "echo", uid, True)
    assert own["automountServiceAccountToken"] is False
    assert team.meta()["uid"] == uid
    assert {f"crew:{{{team.namespace}}}:echo", f"crew:{{{team.namespace}}}:list"} <= team.stored()


def test_work_starts_workers_within_two_seconds_and_they_go_once_idle(team: Team):
    team.operator()
    team.apply(crew(idleSeconds=3))
    team.until_ready()

    team.submit(count=25)
    machine.until(lambda: team.replicas() == 3, within=2, what="workers for 25 tasks of 10 at a time", every=0.05)
    machine.until(lambda: team.crew()["status"].get("waiting"), within=SOON, what="the status says what waits")
    hold(6, lambda: team.replicas() == 3, "workers went while work waited")

    with team.worker("echo").start():
        machine.until(lambda: team.replicas() == 0, within=30, what="no workers")
    machine.until(lambda: team.crew()["status"]["waiting"] == 0, within=SOON, what="the status says that none waits")
    machine.until(lambda: team.crew()["status"]["replicas"] == 0, within=SOON, what="the status says no workers")


def test_a_crew_in_steady_use_keeps_its_workers(team: Team):
    team.operator()
    team.apply(crew(idleSeconds=3))
    team.until_ready()
    with team.worker("echo").start():
        team.submit()
        machine.until(lambda: team.replicas() == 1, within=5, what="a worker")

        def still_used() -> bool:
            team.submit()
            return team.replicas() == 1

        hold(10, still_used, "workers went while tasks came every 0.2 s")


def test_a_deleted_crew_leaves_nothing(team: Team):
    team.operator()
    team.apply(crew(), heartbeat("beat", intervalSeconds=3600))
    team.until_ready()
    team.submit()
    assert team.stored()
    team.kubectl("delete", "crew", "echo")
    machine.until(lambda: not team.stored(), within=SOON, what="the store is clean")
    machine.until(lambda: not team.deployments(), within=30, what="the Deployment is gone")


# ---------------------------------------------------------------- the operator goes and comes back


def test_over_an_unchanged_cluster_a_killed_and_restarted_operator_writes_nothing(
    team: Team, control_plane: ControlPlane, audit_writes: Callable[..., list[Write]]
):
    first = team.operator()
    team.apply(crew(idleSeconds=3600), crew("other", minReplicas=2), heartbeat("beat", intervalSeconds=3600))
    team.until_ready("echo", "other")
    team.submit()
    machine.until(lambda: team.replicas() == 1, within=SOON, what="a worker")
    machine.until(lambda: team.crew()["status"].get("replicas") == 1, within=SOON, what="the status says so")
    machine.until(lambda: team.conditions("beat", "heartbeat").get("Ready"), within=SOON, what="the beat's status")
    before = [d["metadata"]["resourceVersion"] for d in team.deployments() + team.deployments("other")]

    since = control_plane.audit_position()
    hold(4, lambda: not audit_writes(since, user=OPERATOR), "the operator writes at rest")
    first.kill()
    team.operator(resync_seconds="2")
    hold(11, lambda: not audit_writes(since, user=OPERATOR), "the restarted operator writes")
    assert [d["metadata"]["resourceVersion"] for d in team.deployments() + team.deployments("other")] == before

    # and it does its work
    team.submit(count=10)
    machine.until(lambda: team.replicas() == 2, within=5, what="two workers for eleven tasks")
    assert {w.resource for w in audit_writes(since, user=OPERATOR)} <= {"deployments", "crews"}


def test_a_crew_deleted_while_the_operator_is_down_is_swept_when_it_returns(team: Team):
    first = team.operator()
    team.apply(crew(), crew("other"), heartbeat("beat", intervalSeconds=3600))
    team.until_ready("echo", "other")
    team.submit()
    first.kill()
    team.kubectl("delete", "crew", "echo")
    kept = team.stored("other")
    assert team.stored()
    team.operator()
    machine.until(lambda: not team.stored(), within=SOON, what="the store is clean")
    assert team.stored("other") == kept


@pytest.mark.parametrize("up", [True, False], ids=["operator up", "operator down"])
def test_a_crew_recreated_at_once_starts_clean(team: Team, up: bool):
    first = team.operator()
    team.apply(crew())
    team.until_ready()
    old = team.crew()["metadata"]["uid"]
    team.submit(count=3)
    if not up:
        first.kill()
    team.kubectl("delete", "crew", "echo", "--wait=true")
    team.apply(crew())
    if not up:
        team.operator()
    new = team.crew()["metadata"]["uid"]
    assert new != old
    machine.until(lambda: team.meta().get("uid") == new, within=SOON, what="the store has the new crew")
    team.until_ready(within=30)
    assert not [key for key in team.stored() if ":run:" in key or ":task:" in key], (
        "the former crew's work is still there"
    )

    def owners() -> set[str]:
        return {d["metadata"]["ownerReferences"][0]["uid"] for d in team.deployments()}

    machine.until(lambda: owners() == {new}, within=30, what="only the new crew's Deployment")
    machine.until(lambda: team.replicas() == 0, within=SOON, what="no workers for the former crew's work")


def test_the_operator_ends_by_sigterm_with_code_0(team: Team):
    running = team.operator()
    team.apply(crew())
    team.until_ready()
    assert running.terminate() == 0


# ---------------------------------------------------------------- the store goes and comes back


def test_what_a_flushed_store_lost_comes_back_by_resync(team: Team):
    team.operator(resync_seconds="1")
    team.apply(crew(), heartbeat("beat", intervalSeconds=3600))
    team.until_ready()
    machine.until(lambda: any(":heartbeat:" in k for k in team.stored()), within=SOON, what="the heartbeat is stored")
    before, uid = team.stored(), team.meta()["uid"]

    team.store.client.flushall()

    machine.until(lambda: team.stored() >= before, within=SOON, what="all keys are back")
    assert team.meta()["uid"] == uid
    team.submit()
    machine.until(lambda: team.replicas() == 1, within=5, what="it takes work")


def test_while_the_store_is_down_workers_are_held_and_it_recovers(team: Team):
    team.operator()
    team.apply(crew(idleSeconds=2))
    team.until_ready()
    team.submit(count=15)
    machine.until(lambda: team.replicas() == 2, within=SOON, what="two workers")

    team.store.kill()
    machine.until(lambda: team.conditions()["Ready"][:2] == ("False", "StoreUnavailable"), within=30, what="it says so")
    hold(10, lambda: team.replicas() == 2, "workers went while the store was down")
    team.store.start()
    team.until_ready(within=30)
    assert team.replicas() == 2

    team.submit(count=10)
    machine.until(lambda: team.replicas() == 3, within=SOON, what="three workers for 25 tasks")


def test_work_that_comes_right_after_the_store_is_back_is_heard(team: Team):
    team.operator()
    team.apply(crew())
    team.until_ready()
    team.store.kill()
    machine.until(lambda: True, within=1, what="")
    team.store.start()
    team.submit()
    machine.until(lambda: team.replicas() == 1, within=SOON, what="a worker")


# ---------------------------------------------------------------- the API server goes and comes back


def test_a_crew_made_after_a_restart_of_the_api_server_is_handled_within_30_seconds(
    team: Team, control_plane: ControlPlane
):
    running = team.operator()
    team.apply(crew())
    team.until_ready()
    control_plane.restart_api_server(kill=True)
    team.apply(crew("after"))
    team.until_ready("after", within=30)
    team.submit()
    machine.until(lambda: team.replicas() == 1, within=SOON, what="a worker for the crew from before")
    assert running.exit_code() is None


# ---------------------------------------------------------------- broken crews


def test_broken_crews_say_what_is_wrong_and_disturb_no_other(team: Team):
    cycle = {
        "executionMode": "flow",
        "flowRelations": [{"source": ["b"], "target": ["c"]}, {"source": ["c"], "target": ["b"]}],
    }
    team.operator()
    team.apply(
        crew("cycle", agents=("a", "b", "c"), spec=cycle),
        crew("secretless", redisSecretRef={"name": "later"}),
        crew("typo", template={"spec": {"containers": [{"name": "worker", "imagge": "x"}]}}),
        crew("refused", template={"spec": {"containers": [{"name": "worker", "ports": [{"containerPort": 0}]}]}}),
        crew("good"),
    )
    team.until_ready("good")
    said = team.until_stalled("cycle", "FlowCycle")
    assert "b" in said
    assert "c" in said
    assert "later" in team.until_stalled("secretless", "RedisSecretMissing")
    assert "imagge" in team.until_stalled("typo", "TemplateInvalid")
    assert "containerPort" in team.until_stalled("refused", "TemplateInvalid")
    for name in ("cycle", "secretless", "typo", "refused"):
        assert team.conditions(name)["Ready"][0] == "False"

    team.submit("good")
    machine.until(lambda: team.replicas("good") == 1, within=5, what="the good crew works")

    # each heals when it is mended, and by itself where what it lacks is not in its spec
    team.kubectl("create", "secret", "generic", "later", f"--from-literal=url={team.store.url}")
    team.apply(crew("typo"), crew("refused"), crew("cycle", agents=("a", "b", "c")))
    team.until_ready("secretless", "typo", "refused", "cycle", within=30)
    for name in ("secretless", "typo", "refused", "cycle"):
        assert "Stalled" not in team.conditions(name)


def test_a_refused_template_is_not_tried_again_until_the_spec_changes(
    team: Team, control_plane: ControlPlane, audit_writes: Callable[..., list[Write]]
):
    team.operator(resync_seconds="1")
    team.apply(crew("typo", template={"spec": {"containers": [{"name": "worker", "imagge": "x"}]}}))
    team.until_stalled("typo", "TemplateInvalid")
    since = control_plane.audit_position()
    hold(5, lambda: not audit_writes(since, user=OPERATOR), "it is tried again and again")


def test_a_template_of_the_wrong_shape_has_a_condition(team: Team):
    team.operator()
    team.apply(crew("odd", template={"spec": {"containers": "text"}}))
    team.until_stalled("odd", "TemplateInvalid", within=8)


def test_quantities_as_people_write_them_cause_no_writes_at_rest(
    team: Team, control_plane: ControlPlane, audit_writes: Callable[..., list[Write]]
):
    limits = {"cpu": 1, "memory": "1024Mi"}
    template = {"spec": {"containers": [{"name": "worker", "resources": {"limits": limits}}]}}
    team.operator(resync_seconds="1")
    team.apply(crew(template=template))
    team.until_ready()
    since = control_plane.audit_position()
    hold(4, lambda: not audit_writes(since, user=OPERATOR), "the operator writes at rest")


# ---------------------------------------------------------------- drift


def test_hand_edited_deployments_are_put_right_and_what_is_foreign_stays(team: Team):
    team.operator()
    team.apply(crew(minReplicas=2))
    team.until_ready()
    name = team.deployments()[0]["metadata"]["name"]
    image = team.deployments()[0]["spec"]["template"]["spec"]["containers"][0]["image"]
    team.kubectl("label", "deployment", name, "theirs=label")
    team.kubectl("annotate", "deployment", name, "theirs=annotation")
    team.kubectl("set", "image", f"deployment/{name}", "worker=hacked")
    team.kubectl("scale", f"deployment/{name}", "--replicas=0")

    def right() -> bool:
        (seen,) = team.deployments()
        return (
            seen["spec"]["replicas"] == 2
            and seen["spec"]["template"]["spec"]["containers"][0]["image"] == image
            and seen["metadata"]["labels"].get("theirs") == "label"
            and seen["metadata"]["annotations"].get("theirs") == "annotation"
        )

    machine.until(right, within=SOON, what="image and replicas are put right, the rest stays")
    hold(2, right, "it did not stay so")


def test_a_deleted_deployment_is_made_anew(team: Team):
    team.operator()
    team.apply(crew(minReplicas=1))
    team.until_ready()
    old = team.deployments()[0]["metadata"]["uid"]
    team.kubectl("delete", "deployment", team.deployments()[0]["metadata"]["name"])
    machine.until(
        lambda: [d for d in team.deployments() if d["metadata"]["uid"] != old], within=SOON, what="a new Deployment"
    )


def test_a_deleted_service_account_is_made_anew_by_resync(team: Team):
    team.operator(resync_seconds="1")
    team.apply(crew())
    team.until_ready()
    team.kubectl("delete", "serviceaccount", "echo-worker")
    machine.until(
        lambda: team.kubectl("get", "serviceaccount", "echo-worker"),
        within=6,
        what="a new one",
        ignoring=(KubectlError,),
    )


def test_a_new_image_makes_a_new_revision_and_the_old_one_goes_when_idle(team: Team):
    team.operator()
    team.apply(crew())
    team.until_ready()
    old = team.deployments()[0]["metadata"]["uid"]
    team.apply(crew(image="mine:2"))

    def renewed() -> bool:
        seen = team.deployments()
        return len(seen) == 1 and seen[0]["metadata"]["uid"] != old

    machine.until(renewed, within=SOON, what="only the new revision")
    assert team.deployments()[0]["spec"]["template"]["spec"]["containers"][0]["image"] == "mine:2"


# ---------------------------------------------------------------- heartbeats


def test_a_heartbeat_fires_and_stops_when_deleted(team: Team):
    team.operator()
    team.apply(crew(), heartbeat("beat", intervalSeconds=1))
    team.until_ready()
    runs = f"wb:{{{team.namespace}/echo}}:run:*"

    def fired() -> int:
        return len([k for k in team.store.client.scan_iter(match=runs, count=1000) if str(k).count(":") == 4])

    machine.until(lambda: fired() >= 3, within=SOON, what="it fires")
    assert team.conditions("beat", "heartbeat")["Ready"][0] == "True"
    machine.until(lambda: team.replicas() == 1, within=5, what="a worker for its work")
    team.kubectl("delete", "heartbeat", "beat")
    machine.until(lambda: not any(":heartbeat:" in k for k in team.stored()), within=SOON, what="the store forgot it")
    after = fired()
    hold(3, lambda: fired() == after, "it fired after it was deleted")


def test_a_schedule_that_is_none_is_said_and_does_not_stop_others(team: Team):
    team.operator()
    team.apply(crew(), heartbeat("bad", schedule="61 * * * *"), heartbeat("good", intervalSeconds=3600))
    assert "61" in team.until_stalled("bad", "InvalidSchedule", kind="heartbeat")
    team.until_ready()
    assert team.conditions("good", "heartbeat")["Ready"][0] == "True"
    team.apply(heartbeat("bad", schedule="1 * * * *"))
    machine.until(lambda: team.conditions("bad", "heartbeat")["Ready"][0] == "True", within=SOON, what="it is mended")
    assert "Stalled" not in team.conditions("bad", "heartbeat")


def test_a_heartbeat_without_its_crew_says_so(team: Team):
    team.operator()
    team.apply(heartbeat("lost", intervalSeconds=3600))
    team.until_stalled("lost", "CrewNotFound", kind="heartbeat", within=6)


# ---------------------------------------------------------------- what is not the template's fault, and races


def test_a_crew_refused_for_want_of_quota_heals_when_there_is_room(team: Team):
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}}
    team.apply({**quota, "spec": {"hard": {"count/deployments.apps": "0"}}})
    team.operator(resync_seconds="1")
    team.apply(crew())
    machine.until(lambda: team.conditions().get("Ready", ("",))[0] == "False", within=SOON, what="it isn't ready")
    team.kubectl("delete", "resourcequota", "none")
    team.until_ready(within=10)


def test_a_resync_never_takes_a_new_crew_for_a_deleted_one(team: Team):
    """A Crew that comes into being between a listing and its end is in the watch, and not in the listing."""
    team.operator(resync_seconds="0.01")
    names = [f"crew-{i}" for i in range(30)]
    for name in names:
        team.apply(crew(name))
        machine.until(lambda name=name: team.meta(name).get("def"), within=SOON, what=f"{name} is stored", every=0.005)
        team.submit(name)
        assert any(":run:" in key for key in team.stored(name)), f"the work given to {name} was removed with it"
    lost = [name for name in names if not any(":run:" in key for key in team.stored(name))]
    assert not lost
