"""Why no worker pod runs: in Kubernetes' own words, the most frequent first."""

from __future__ import annotations

from typing import Any

import pytest

from watchbill.plan import pods

pytestmark = pytest.mark.pure

CREW = {"metadata": {"namespace": "team", "name": "blog"}, "status": {"conditions": []}}
FULL = "0/3 nodes are available: 3 Insufficient cpu. preemption: no victims found."


def deployment(replicas: int = 2, **condition: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "blog-abc", "uid": "u", "resourceVersion": "1"},
        "spec": {"replicas": replicas},
        "status": {"conditions": [condition] if condition else []},
    }


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "status": status}


def waiting(reason: str, message: str = "", last: Any = None) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return pod(containerStatuses=[{"name": "worker", "image": "i:1", "state": state, "lastState": last or {}}])


def unscheduled(message: str) -> dict[str, Any]:
    return pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}])


def test_the_scheduler_is_quoted_and_equal_sentences_are_counted() -> None:
    told = pods.explain(CREW, [deployment()], [unscheduled(FULL), unscheduled(FULL), waiting("ContainerCreating")])
    assert told == (f"2 times: a pod can't be scheduled (Unschedulable): {FULL}",)


def test_an_image_that_can_t_be_pulled_and_a_worker_that_ends_are_told() -> None:
    ended = {"terminated": {"reason": "Error", "exitCode": 2, "message": "no module\n"}}
    told = pods.explain(
        CREW, [deployment()], [waiting("ImagePullBackOff", "not found"), waiting("CrashLoopBackOff", last=ended)]
    )
    assert told == (
        "container worker doesn't start (ImagePullBackOff): not found",
        "container worker doesn't stay up (CrashLoopBackOff): its last start ended as Error with exit code 2: "
        "no module; its log says more (kubectl logs --previous)",
    )


def test_a_quota_and_a_stalled_crew_are_told_without_any_pod() -> None:
    quota = 'pods "blog-abc-x" is forbidden: exceeded quota: small'
    failed = deployment(type="ReplicaFailure", status="True", reason="FailedCreate", message=quota)
    stalled = {"type": "Stalled", "status": "True", "reason": "RedisSecretMissing", "message": "there is no Secret"}
    crew = {**CREW, "status": {"conditions": [stalled]}}
    assert pods.explain(crew, [failed], []) == (
        "crew team/blog is stalled (RedisSecretMissing): there is no Secret",
        "Deployment blog-abc: pods is forbidden: exceeded quota: small",
    )


def test_where_nothing_is_wrong_the_state_is_told() -> None:
    assert pods.explain(CREW, [], []) == ("the operator has made no Deployment yet; is it running?",)
    assert pods.explain(CREW, [deployment(0)], []) == ("the operator wants no worker now",)
    assert pods.explain(CREW, [deployment()], [waiting("PodInitializing")]) == (
        "2 worker pods are wanted, and none is ready yet; 1 have been made",
    )
