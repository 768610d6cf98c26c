"""`watchbill why` tells in Kubernetes' own words, the kubelet's or the scheduler's, why no worker runs."""

from __future__ import annotations

import json
from typing import Any

from e2e.cluster import machine
from e2e.kind.crews import crew
from e2e.kind.team import NAMESPACE, SOON, Team

NOBODYS = "127.0.0.1:9/none:1"
"""An image of a registry that the node itself refuses to connect to."""


def test_a_task_tells_why_its_workers_image_or_node_is_missing(team: Team, name: str) -> None:
    other = f"{name}-unplaced"
    nowhere = {"spec": {"nodeSelector": {"watchbill.dev/of-the-tests": "nowhere"}}}
    team.apply(crew(name, image=NOBODYS), crew(other, template=nowhere))
    try:
        for one in (name, other):
            team.until_ready(one)
        with team.pod_events(name, other) as events:
            for one in (name, other):
                team.submit(one, "go on")
            pulled = until_told(team, name, "ImagePull")
            placed = until_told(team, other, "Unschedulable")
            machine.until(lambda: pulled in waits(events()), within=SOON, what=f"the kubelet's own words: {pulled}")
            machine.until(lambda: placed in unplaced(events()), within=SOON, what=f"the scheduler's: {placed}")
        assert NOBODYS in pulled
        assert "connection refused" in pulled
        assert "node(s) didn't match Pod's node affinity/selector" in placed
        machine.until(lambda: wants_one(team, name) and wants_one(team, other), within=SOON, what="each wants a worker")
    finally:
        team.kubectl("delete", "crew", other, "--ignore-not-found")


def wants_one(team: Team, crew: str) -> bool:
    """The operator tells that the crew is to have a worker, whose pod isn't ready."""
    told = json.loads(team.told("explain", "crew", f"{NAMESPACE}/{crew}", "--output=json"))
    assert told["sentences"][0].startswith("1 worker is wanted, between 0 (minReplicas) and ")
    return [(pods["replicas"], pods["ready"]) for pods in told["pods"]] == [(1, 0)]


def until_told(team: Team, crew: str, word: str) -> str:
    """The sentence about the pods of the crew's oldest task, once one has that word."""

    def told() -> str:
        seen = json.loads(team.told("why", f"{NAMESPACE}/{crew}", "--output=json"))
        assert seen["step"]["reason"] == "no-worker"
        return next((sentence for sentence in seen["pods"] if word in sentence), "")

    return machine.until(told, within=SOON, what=f"{crew}: {word}")


def waits(events: list[Any]) -> set[str]:
    """All that the kubelet has told of containers that wait."""
    statuses = [one for event in events for one in event["object"]["status"].get("containerStatuses", [])]
    waiting = [one["state"]["waiting"] for one in statuses if "waiting" in one["state"]]
    return {f"container worker doesn't start ({one['reason']}): {one.get('message')}" for one in waiting}


def unplaced(events: list[Any]) -> set[str]:
    """All that the scheduler has told of pods that it finds no node for."""
    conditions = [one for event in events for one in event["object"]["status"].get("conditions", [])]
    placing = [one for one in conditions if one["type"] == "PodScheduled" and one["status"] == "False"]
    return {f"a pod can't be scheduled (Unschedulable): {one['message']}" for one in placing}
