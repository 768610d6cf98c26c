"""A thousand bad manifests: each is refused with its field named or is Stalled, and good crews beside them work."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane
from e2e.control_plane import operator_team
from e2e.control_plane.crds_server import GROUP, PLURALS, Server
from e2e.control_plane.manifests import generated
from e2e.control_plane.manifests.generated import READY, REFUSED, Generated
from e2e.control_plane.operator_team import RARELY, SOON, Team, crew, heartbeat

team = operator_team.team
store = operator_team.store
installed = operator_team.installed

COUNT = 1000
SEED = int(os.environ.get("SEED", "14"))
SENDERS = 4


@pytest.mark.timeout(900)
def test_none_of_a_thousand_bad_manifests_goes_unsaid_or_disturbs_a_good_crew(
    team: Team, installed: ControlPlane
) -> None:
    good = ("good-0", "good-1", "good-2")
    running = team.operator()
    team.apply(*map(crew, good), heartbeat("beat", intervalSeconds=RARELY, crewRef={"name": "good-0"}))
    team.until_ready(*good)

    cases = [*generated.bad(SEED, COUNT), *generated.unchecked(SEED, 10)]
    with ThreadPoolExecutor(SENDERS) as senders:
        parts = senders.map(lambda i: sent(installed, cases[i::SENDERS], team.namespace), range(SENDERS))
        wrong = [said for part in parts for said in part]
    assert not wrong, f"{len(wrong)} of {COUNT}: {wrong[:10]}"
    left = {place(case): case for case in cases if case.outcome != REFUSED}
    assert len(left) > COUNT // 10

    # While the operator has all of these to look at, a change to a good one is taken up.
    team.apply(crew("good-1", minReplicas=2))
    machine.until(lambda: team.replicas("good-1") == 2, within=SOON, what="the good crew's change is taken up")
    with contextlib.closing(Server(installed)) as server:

        def all_said() -> bool:
            for kind in PLURALS:
                for seen in objects(server, kind, team.namespace):
                    case = left.get((kind, seen["metadata"]["name"]))
                    if case and said(seen, case):
                        del left[place(case)]
            return not left

        try:
            machine.until(all_said, within=5 * SOON, what="each has its condition")
        finally:
            has = {
                (k, o["metadata"]["name"]): o.get("status") for k in PLURALS for o in objects(server, k, team.namespace)
            }
            for case in list(left.values())[:20]:
                print(f"expected {case.outcome} naming {case.named!r}: {case.manifest['spec']}")
                print("   has", has.get(place(case)))
    team.until_ready(*good)
    assert running.exit_code() is None
    assert not [line for line in running.said() if "Traceback" in line], "the operator failed"


def sent(installed: ControlPlane, cases: list[Generated], namespace: str) -> list[tuple[str, int, str]]:
    """Creates them. Returns what the API server said of those of which it said something wrong."""
    wrong = []
    with contextlib.closing(Server(installed)) as server:
        for case in cases:
            checked = "Strict" if case.strict else "Ignore"
            kind, _ = place(case)
            path = f"{GROUP}/namespaces/{namespace}/{PLURALS[kind]}?fieldValidation={checked}"
            answer = server.send("POST", path, case.manifest)
            if case.outcome == REFUSED:
                is_right = answer.code in (400, 422) and case.named in answer.message
            else:
                is_right = answer.code == 201
            if not is_right:
                wrong.append((case.named or case.outcome, answer.code, answer.message[:500]))
    return wrong


def place(case: Generated) -> tuple[str, str]:
    return case.manifest["kind"], case.manifest["metadata"]["name"]


def objects(server: Server, kind: str, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.send("GET", f"{GROUP}/namespaces/{namespace}/{PLURALS[kind]}").body["items"]
    return found


def said(seen: dict[str, Any], case: Generated) -> bool:
    """Its conditions say what they must of its present generation."""
    status, kind = seen.get("status", {}), "Ready" if case.outcome == READY else "Stalled"
    if status.get("observedGeneration") != seen["metadata"]["generation"]:
        return False
    for one in status.get("conditions", []):
        if (one["type"], one["status"]) == (kind, "True"):
            return kind == "Ready" or (one["reason"] == case.outcome and case.named in one["message"])
    return False
