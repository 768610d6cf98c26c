"""A namespace that is deleted goes, whether operator and store are there or not, and leaves nothing in the store."""

from __future__ import annotations

from e2e.cluster import machine
from e2e.cluster.kubectl import Kubectl, KubectlError
from e2e.control_plane import operator_process, operator_team
from e2e.control_plane.operator_team import RARELY, SOON, Team, crew, heartbeat

team = operator_team.team
store = operator_team.store
installed = operator_team.installed

SLOW = {"agents": [{"name": "a", "class": "EchoAgent", "config": {"delay_seconds": 600}}]}
PATIENT = {"spec": {"terminationGracePeriodSeconds": 600}}
"""The task that runs may take so long when its crew is deleted: longer than its namespace takes to go."""


def test_a_namespace_goes_with_its_crews_with_and_without_store_and_operator_and_nothing_of_it_is_left(
    team: Team, kubectl: Kubectl
) -> None:
    running = team.operator(everywhere=True)
    busy, storeless, unseen = names = [f"{team.namespace}-{i}" for i in range(3)]
    for name in names:
        kubectl("create", "namespace", name)
        kubectl("create", "secret", "generic", "watchbill-redis", f"--from-literal=url={team.store.url}", f"-n={name}")
        beat = heartbeat("beat", intervalSeconds=1 if name == busy else RARELY, agent="a")
        kubectl.apply(crew(spec=SLOW, minReplicas=1, template=PATIENT), crew("other"), beat, namespace=name)
    team.apply(crew())
    for name in names:
        waits = ("--for=condition=Ready", f"--timeout={SOON:.0f}s", f"-n={name}")
        kubectl("wait", "crew/echo", "crew/other", "heartbeat/beat", *waits)

    def left(name: str) -> set[str]:
        """The keys of the namespace that do not go by themselves."""
        found = [str(key) for key in team.store.client.scan_iter(match=f"*{name}*", count=1000)]
        return {key for key in found if team.store.client.ttl(key) == -1}

    def is_clean(*names: str) -> bool:
        for name in names:
            assert not left(name)
        return True

    def deleted(name: str) -> None:
        """It goes by itself: the API server's own controller deletes all that is in it."""
        kubectl("delete", "namespace", name, "--wait=false")
        machine.until(lambda: is_gone(kubectl, name), within=3 * SOON, what=f"{name} is gone")

    try:
        of = f"{busy}/echo"
        with operator_process.worker(
            of, team.store.url, team.folder, grace_seconds="1", concurrency="1"
        ).start() as worker:
            holders = f"wb:{{{busy}/echo}}:holders"
            machine.until(lambda: team.store.client.hlen(holders), within=SOON, what="a task runs")
            deleted(busy)
            assert running.exit_code() is None
            assert worker.exit_code() is None, "its task may end"
            worker.terminate()  # as the kubelet does with a pod that is deleted
        machine.until(lambda: is_clean(busy), within=SOON, what="the store is clean", ignoring=(AssertionError,))

        team.store.kill()
        deleted(storeless)
        running.kill()
        deleted(unseen)
        team.store.start()
        assert left(storeless)
        assert left(unseen)
        running.start()
        machine.until(lambda: is_clean(*names), within=SOON, what="all is swept", ignoring=(AssertionError,))
        team.until_ready()
        assert team.stored()
    finally:
        kubectl("delete", "namespace", *names, "--ignore-not-found", "--wait=false")


def is_gone(kubectl: Kubectl, name: str) -> bool:
    try:
        kubectl("get", "namespace", name)
    except KubectlError as error:
        return "NotFound" in error.stderr
    return False
