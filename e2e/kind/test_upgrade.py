"""An upgrade from the release before, and the way back, under load: no worker is replaced by the operator's alone, and
no task is lost or begins twice. Nor does a step of a run that begins before and ends after.

The release before is install.BEFORE, with its own images and chart.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster import install, machine
from e2e.cluster.kind import Cluster
from e2e.cluster.kubectl import Kubectl
from e2e.control_plane.operator_process import hold
from e2e.kind import crews
from e2e.kind.team import NAMESPACE, SOON, Team, connected, released
from watchbill.client import Client

CREW = "under-load"
LONG = "25"
"""Seconds of the tasks that run on while something is upgraded."""
STEPS = ("one", "two", "three", "four", "five")
BRIEF = ("0.5", "1", "2", "3")

pytestmark = pytest.mark.timeout(2400)  # two releases' images are built


class Load:
    """A crew of two workers that always have something to do."""

    def __init__(self, team: Team) -> None:
        self._team = team
        self.submitted: list[str] = []

    def add(self) -> None:
        """Tasks for every slot that outlast an upgrade, and brief ones that wait for their turn."""

        async def submit(client: Client) -> list[str]:
            return [await client.submit(CREW, prompt, agent="one") for prompt in (LONG, LONG, *BRIEF * 3, LONG)]

        self.submitted += self._team.with_client(submit)

    def until_ended(self) -> None:
        """All tasks have ended, each of them once, and have begun only once."""
        expected = Counter(self.submitted)
        ended = expected.total()
        machine.until(lambda: seen(self._team, CREW)[0].total() >= ended, within=3 * SOON, what="all end", every=1)
        assert seen(self._team, CREW) == (expected, expected)


class Run:
    """A run of a crew with one worker, whose steps end when they are told to."""

    crew = "of-steps"

    def __init__(self, team: Team) -> None:
        self._team = team
        manifests = crews.sample(self.crew, "Opened", lease_seconds=60, minReplicas=1, maxReplicas=1, concurrency=1)
        (agent,) = manifests[1]["spec"]["agents"]
        manifests[1]["spec"]["agents"] = [{**agent, "name": step} for step in STEPS]
        team.apply(*manifests)
        team.until_pods(self.crew, 1)
        self.id = team.with_client(lambda client: client.submit(self.crew, "go on"))
        self._until_begun("one")

    def next(self, ends: str) -> None:
        """That step ends, and the next one, if there is one, begins."""
        with self._team.store() as url, connected(url) as client:
            client.set(f"gate:{ends}", "open")
        for step in STEPS[STEPS.index(ends) + 1 :][:1]:
            self._until_begun(step)

    def until_drained(self) -> None:
        """The worker that runs a step is to claim no other."""

        async def draining(client: Client) -> bool:
            return any(one.draining and one.running for one in await client.workers(self.crew))

        machine.until(lambda: self._team.with_client(draining), within=SOON, what="the older worker drains", every=0.5)

    def check(self) -> None:
        """It has ended well, and each step has run once, the fourth no longer where the third did."""
        assert self._team.wait(self.crew, self.id).success
        steps = Counter(f"{self.id}/{step}" for step in STEPS)
        assert seen(self._team, self.crew) == (steps + Counter([self.id]), steps)
        done = [self._team.wait(self.crew, f"{self.id}/{step}").output for step in STEPS]
        assert [one["attempt"] for one in done] == [1] * len(STEPS)
        pods = [one["pod"] for one in done]
        assert pods[0] == pods[1] == pods[2] != pods[3], pods

    def _until_begun(self, step: str) -> None:
        begun = f"{self.id}/{step}"
        machine.until(lambda: begun in seen(self._team, self.crew)[1], within=SOON, what=f"{begun} begins", every=0.3)


def seen(team: Team, crew: str) -> tuple[Counter[str], Counter[str]]:
    """The number of times that each task, run or step has come to a result, and that each task or step has begun."""
    prefix = f"wb:{{{NAMESPACE}/{crew}}}:"
    with team.store() as url, connected(url) as client:
        results: Any = client.xrange(prefix + "results")
        events: Any = client.xrange(prefix + "events")
    begun = (json.loads(event["data"]) for _, event in events if event["event_type"] == "task_assigned")
    ended = Counter(result["id"] for _, result in results if result["state"] == "completed")
    return ended, Counter(event["task_id"] for event in begun)


@pytest.fixture(scope="module")
def images(
    kind_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, install.Images, install.Images]:
    """The chart of the release before, its images, and those of this one."""
    if not kind_cluster.kind_name:
        pytest.skip("the images of the release before can only be put on the nodes of a kind cluster")
    if not install.has_before():
        pytest.skip(f"commit {install.BEFORE}, the release before, is not in this clone: git fetch --unshallow")
    now = install.prepared(kind_cluster)
    folder = tmp_path_factory.mktemp("before")
    before = install.prepared_before(kind_cluster, folder, now.valkey)
    return folder / "charts" / "watchbill", before, now


@pytest.fixture
def team(
    kubectl: Kubectl, kind_cluster: Cluster, images: tuple[Path, install.Images, install.Images]
) -> Iterator[Team]:
    chart, before, _ = images
    with released(kubectl, kind_cluster, before, chart) as made:
        yield made


def test_an_upgrade_and_the_way_back_replace_no_busy_worker_and_lose_nothing(
    team: Team, images: tuple[Path, install.Images, install.Images]
) -> None:
    _, before, now = images
    load = Load(team)
    team.apply(*crews.sample(CREW, "Sleeper", lease_seconds=60, minReplicas=2, maxReplicas=2, concurrency=2))
    team.until_ready(CREW)
    old = uids(team.until_pods(CREW, 2))
    run = Run(team)
    run.next("one")
    load.add()

    # The operator and the CRDs: workers stay, and so do their Deployments.
    operator = install.Images(now.operator, before.worker, now.valkey)
    install.install(team.cluster, operator, namespace=NAMESPACE)
    taken_up = machine.until(
        lambda: team.get("crew", CREW)["status"].get("templateVersion"), within=SOON, what="the new operator reports"
    )
    assert taken_up == 1
    load.add()
    hold(10, lambda: uids(team.pods(CREW)) == old, "the operator's upgrade replaced a worker")
    run.next("two")
    load.until_ended()

    # The workers, one by one, none with a task.
    load.add()
    install.install(team.cluster, now, namespace=NAMESPACE)
    until_all_of(team, now.worker)
    assert not uids(team.pods(CREW)) & old
    run.until_drained()
    run.next("three")
    load.add()
    load.until_ended()

    # And back, over what the new ones wrote.
    load.add()
    install.helm(team.cluster, "rollback", install.RELEASE, "1", f"--namespace={NAMESPACE}", "--wait", "--timeout=300s")
    until_all_of(team, before.worker)
    run.next("four")
    load.add()
    load.until_ended()
    run.next("five")
    run.check()
    team.until_ready(CREW)
    selector = f"--selector=watchbill.dev/crew={CREW}"
    machine.until(
        lambda: len(team.get("deployments", selector)["items"]) == 1, within=SOON, what="one revision is left"
    )


def uids(pods: list[dict[str, Any]]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


def until_all_of(team: Team, image: str) -> None:
    """All workers are of this image, and none of another is left."""

    def there() -> bool:
        found = [pod["spec"]["containers"][0]["image"] for pod in team.pods(CREW)]
        return len(found) == 2 and set(found) == {image}

    machine.until(there, within=3 * SOON, what=f"only workers of {image}", every=0.5)
