"""Scale-in and rollouts beside a model of the ReplicaSet's controller, which chooses the pods that go.

The controller deletes pods in Kubernetes' order: those that have not started, then those that are not ready, then the
newest. Probes take their time, the operator is restarted half way, and agents block event loops, of which a worker's
readiness does not depend. In half of the runs what the operator sees of pods is a second old. Some kubelets are slow.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from crew_plans import NEW, child, crew

from watchbill.api.workers import ScaleDown, ScaleUp
from watchbill.plan import drain, replicas
from watchbill.plan.children import Child

pytestmark = pytest.mark.pure

SLOTS = 3


@dataclass
class Pod:
    name: str
    revision: str
    works_at: int
    tasks: list[int] = field(default_factory=list)
    """The times at which its tasks end."""
    draining: bool = False
    is_ready: bool = False
    probe_in: int = 2
    """Seconds until the API server knows that its readiness is another."""
    known: tuple[bool, int] = (False, 0)
    """What its kubelet takes it for, and since when."""
    blocked_until: int = 0
    ended_at: int | None = None
    """The time at which a deleted pod's worker leaves."""


class Cluster:
    """Two Deployments, their pods, and the tasks of one crew. Time goes on in seconds."""

    def __init__(
        self, seed: int, *, loops_answer: bool = False, is_slow: bool = False, workers_say: bool = False
    ) -> None:
        """`loops_answer`: probes are answered by event loops, so that a pod whose loop is blocked is not ready.
        `is_slow`: kubelets ask late. `workers_say`: workers report what their kubelets know."""
        self.chance = random.Random(seed)
        self.is_late = seed % 2 == 0
        self.loops_answer = loops_answer
        self.is_slow = is_slow
        self.workers_say = workers_say
        self.now = 0
        self.pods: list[Pod] = []
        self.sizes: dict[str, int] = {}
        self.status: dict[str, tuple[int, int]] = {}
        """Revision → pods and ready pods, as the controller has said."""
        self.backlog = 0
        self.killed: list[tuple[str, int]] = []

    def tick(self, arrive: int, longest: int) -> None:
        self.now += 1
        self.backlog += arrive
        if self.is_late:
            self._tell()
        self.pods = [pod for pod in self.pods if pod.ended_at is None or pod.ended_at > self.now]
        for pod in self.pods:
            self._work(pod, longest)
        self.control()
        if not self.is_late:
            self._tell()

    def _tell(self) -> None:
        for revision in self.sizes:
            mine = [pod for pod in self.pods if pod.revision == revision and pod.ended_at is None]
            self.status[revision] = len(mine), sum(pod.is_ready for pod in mine)

    def control(self) -> None:
        for revision, size in self.sizes.items():
            self._control(revision, size)

    def _work(self, pod: Pod, longest: int) -> None:
        pod.tasks = [end for end in pod.tasks if end > self.now]
        while self.backlog and pod.ended_at is None and not pod.draining and len(pod.tasks) < SLOTS:
            if pod.works_at > self.now:
                break
            self.backlog -= 1
            pod.tasks.append(self.now + self.chance.randint(1, longest))
        if pod.tasks and self.chance.random() < 0.002:
            pod.blocked_until = self.now + 10
        is_silent = self.loops_answer and pod.blocked_until > self.now and bool(pod.tasks)
        says = pod.works_at <= self.now and not is_silent and not (pod.draining and not pod.tasks)
        if says == pod.is_ready:
            pod.probe_in = self.chance.randint(4, 6) if says else self.chance.randint(0, 2)
            pod.probe_in += self.chance.randint(0, 30) if self.is_slow else 0
        elif pod.probe_in > 0:
            pod.probe_in -= 1
        else:
            pod.is_ready = says
        kubelet = says if pod.probe_in == 0 else pod.is_ready  # a second before the API server
        pod.known = pod.known if kubelet == pod.known[0] else (kubelet, self.now)

    def _control(self, revision: str, size: int) -> None:
        mine = [pod for pod in self.pods if pod.revision == revision and pod.ended_at is None]
        for _ in range(size - len(mine)):
            name = f"{revision}-{self.now}-{self.chance.random()}"
            self.pods.append(Pod(name, revision, self.now + self.chance.randint(1, 5)))
        first = sorted(mine, key=lambda pod: (pod.works_at <= self.now, pod.is_ready, -pod.works_at))
        for pod in first[: max(len(mine) - size, 0)]:
            self.killed.append((pod.name, len(pod.tasks)))
            pod.ended_at = self.now + self.chance.randint(0, 2)

    # ------------------------------------------------------------ what the operator sees

    def child(self, base: Child) -> Child | None:
        if base.revision not in self.sizes:
            return None
        there, ready = self.status.get(base.revision, (0, 0))
        return replace(base, replicas=self.sizes[base.revision], there=there, ready=ready)

    def workers(self, empty_since: dict[str, int]) -> list[drain.Worker]:
        found = [pod for pod in self.pods if pod.works_at <= self.now]
        for pod in found:
            if pod.draining and not pod.tasks:
                empty_since.setdefault(pod.name, self.now)
        return [
            drain.Worker(
                pod.name,
                pod.revision,
                len(pod.tasks),
                "scaling" if pod.draining else "",
                age_seconds=float(self.now - pod.works_at),
                empty_seconds=float(self.now - empty_since.get(pod.name, self.now)),
                probed_seconds=self._probed_seconds(pod) if self.workers_say else None,
            )
            for pod in found
        ]

    def _probed_seconds(self, pod: Pod) -> float:
        ready, since = pod.known
        return 0.0 if ready is (pod.draining and not pod.tasks) else float(self.now - since)


class Operator:
    """All that it remembers may be lost."""

    def __init__(self, cluster: Cluster, window: int) -> None:
        self.cluster = cluster
        self.bounds = replicas.Bounds(
            0, 12, SLOTS, 30.0, ScaleUp(), ScaleDown.model_validate({"stabilizationWindowSeconds": window})
        )
        self.past = replicas.Past()
        self.empty_since: dict[str, int] = {}
        self.undrained = -1000
        self.idle_since: int | None = None

    def restart(self) -> None:
        self.past, self.empty_since, self.idle_since = replicas.Past(), {}, None

    def reconcile(self, serving: Child, others: list[Child]) -> None:
        cluster = self.cluster
        current = cluster.child(serving)
        old = [seen for one in others if (seen := cluster.child(one)) is not None]
        fleet = drain.Fleet(cluster.workers(self.empty_since), float(cluster.now - self.undrained))
        load = replicas.Load(cluster.backlog, sum(len(pod.tasks) for pod in cluster.pods))
        self.idle_since = (cluster.now if self.idle_since is None else self.idle_since) if load.none else None
        idle_for = None if self.idle_since is None else float(cluster.now - self.idle_since)
        before = drain.wanted_before(current, old, fleet, self.past.size)
        made = replicas.decide(self.bounds, load, before, idle_for, past=self.past, now=float(cluster.now))
        self.past = made.past
        step = drain.step(made.replicas, current, old, fleet)
        for pod in cluster.pods:
            if pod.name in step.undrain:
                pod.draining, self.undrained = False, cluster.now
                self.empty_since.pop(pod.name, None)
            pod.draining = pod.draining or pod.name in step.drain
        cluster.sizes[serving.revision] = step.size
        cluster.sizes |= {one.revision: size for one, size in step.sizes}
        for one in step.gone:
            del cluster.sizes[one.revision]
        if not cluster.is_late:
            cluster.control()


OLD, FRESH = child(crew()), child(NEW)


def needed(cluster: Cluster) -> int:
    """The workers that all tasks fill."""
    return -(-(cluster.backlog + sum(len(pod.tasks) for pod in cluster.pods)) // SLOTS)


def claiming(cluster: Cluster) -> int:
    return sum(not pod.draining and pod.ended_at is None for pod in cluster.pods)


def rounds(cluster: Cluster, number: int) -> Iterator[list[tuple[str, int]]]:
    """Scale-in under partial load. Yields, of each round, the pods that were deleted and the tasks that each had."""
    operator = Operator(cluster, window=5)
    for _ in range(number):
        cluster.backlog += cluster.chance.randint(15, 36)
        for second in range(cluster.chance.randint(40, 90)):
            steady = int(second % 7 == 0) + int(cluster.chance.random() < 0.02) * 12
            cluster.tick(steady, longest=30)
            if cluster.chance.random() < 0.02:
                operator.restart()
            if second % 2 == 0:
                operator.reconcile(OLD, [])
        yield cluster.killed
        cluster.killed = []
    for second in range(200):
        cluster.tick(0, longest=30)
        if second % 2 == 0:
            operator.reconcile(OLD, [])


@pytest.mark.parametrize("seed", range(5))
def test_in_250_rounds_of_scale_in_under_partial_load_no_busy_worker_is_stopped(seed: int) -> None:
    cluster = Cluster(seed)
    shrunk = 0
    for killed in rounds(cluster, 50):
        shrunk += len(killed) > 0
        assert [(name, tasks) for name, tasks in killed if tasks] == [], f"second {cluster.now}"
    assert shrunk > 30, "rounds in which none left prove nothing"
    assert (cluster.pods, cluster.sizes[OLD.revision]) == ([], 0)


def test_busy_workers_would_be_stopped_if_their_event_loops_answered_probes() -> None:
    """So the model has what makes the test before it worth something."""
    late = (Cluster(seed, loops_answer=True) for seed in range(0, 40, 2))
    assert any(tasks for cluster in late for killed in rounds(cluster, 20) for _, tasks in killed)


@pytest.mark.parametrize("seed", range(5))
def test_slow_kubelets_cost_no_busy_worker(seed: int) -> None:
    cluster = Cluster(seed, is_slow=True, workers_say=True)
    shrunk = 0
    for killed in rounds(cluster, 50):
        shrunk += len(killed) > 0
        assert [(name, tasks) for name, tasks in killed if tasks] == [], f"second {cluster.now}"
    assert shrunk > 5
    assert (cluster.pods, cluster.sizes[OLD.revision]) == ([], 0)


def test_slow_kubelets_would_cost_busy_workers_if_nobody_said_what_they_know() -> None:
    silent = (Cluster(seed, is_slow=True) for seed in range(40))
    assert any(tasks for cluster in silent for killed in rounds(cluster, 20) for _, tasks in killed)


@pytest.mark.parametrize("seed", range(5))
def test_a_rollout_under_steady_load_stops_no_busy_worker_and_never_claims_with_fewer(seed: int) -> None:
    cluster = Cluster(seed)
    operator = Operator(cluster, window=300)
    serving, other = OLD, FRESH
    cluster.backlog = 30
    for second in range(60):
        cluster.tick(int(second % 2 == 0), longest=20)
        operator.reconcile(serving, [other])
    for _ in range(4):
        serving, other = other, serving
        least = claiming(cluster)
        for second in range(400):
            cluster.tick(int(second % 2 == 0), longest=60)
            if cluster.chance.random() < 0.02:
                operator.restart()
            operator.reconcile(serving, [other])
            up = [pod for pod in cluster.pods if pod.works_at <= cluster.now and not pod.draining]
            assert len(up) >= min(least, needed(cluster)), f"second {second}"
            assert [pod for pod in cluster.killed if pod[1]] == []
            if other.revision not in cluster.sizes and not [p for p in cluster.pods if p.revision == other.revision]:
                break
        else:
            pytest.fail("the old revision is still there")
