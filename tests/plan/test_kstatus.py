"""What tools make of each status that the operator writes: kstatus (Flux), and Argo CD with the script in the docs."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from crew_plans import DEFAULTS, NOW, child, crew, planned, seen, settled

from watchbill import connection
from watchbill.api.budgets import Budget
from watchbill.api.conditions import Reason
from watchbill.plan import budget, heartbeat, manifests, paused
from watchbill.plan.quotas import Hold
from watchbill.plan.replicas import Load

DOCS = Path(__file__).parents[2] / "docs" / "gitops.md"
GENERATION = 1


def kstatus(obj: Mapping[str, Any]) -> str:
    """The rules of sigs.k8s.io/cli-utils/pkg/kstatus for a resource that it knows nothing else of."""
    status = obj.get("status") or {}
    if status.get("observedGeneration", obj["metadata"]["generation"]) != obj["metadata"]["generation"]:
        return "InProgress"
    known = {condition["type"]: condition["status"] for condition in status.get("conditions", [])}
    if known.get("Reconciling") == "True":
        return "InProgress"
    if known.get("Stalled") == "True":
        return "Failed"
    return "Current" if known.get("Ready", "True") == "True" else "InProgress"


def _suspended() -> Any:
    of = crew()
    return of.model_copy(update={"spec": of.spec.model_copy(update={"suspend": True})})


_SPENT = budget.Seen([budget.State(Budget.model_validate({"name": "day", "tokens": 1}), "", is_exhausted=True)])


def _of_crews() -> dict[str, tuple[Mapping[str, Any] | None, str, str]]:
    """Situation → status, what kstatus says, what Argo CD says."""
    there = settled()
    silent = dataclasses.replace(child(replicas=1), unavailable_since=NOW - timedelta(hours=1))
    redis, keys = "Secret/watchbill-redis", "Secret/keys"
    older = dataclasses.replace(child(replicas=1), config=json.dumps({redis: "1"}))
    with_keys = crew(envFrom=[{"secretRef": {"name": "keys"}}])
    faults = [
        *(Reason.FLOW_CYCLE, Reason.INVALID_PROMPT, Reason.INVALID_SPEC, Reason.OWNER_CONFLICT),
    ]

    def of(**changes: Any) -> Mapping[str, Any]:
        template = manifests.pod_template(changes.get("crew", there.crew), "team", DEFAULTS)
        observed = dataclasses.replace(there, template=template, **changes)
        return planned(observed).status or observed.status

    return {
        "new": ({"observedGeneration": -1}, "InProgress", "Progressing"),
        "being made": (planned(seen()).status, "InProgress", "Progressing"),
        "ready": (of(), "Current", "Healthy"),
        "ready, agents unchecked": (of(agents_loaded=False), "Current", "Healthy"),
        "ready, the store evicts": (of(evicts="it may delete work"), "Current", "Healthy"),
        "ready, with an older Secret": (
            of(crew=crew(rolloutOnChange=False), children=[older], config={redis: "2"}),
            "Current",
            "Healthy",
        ),
        "a reference missing": (of(crew=with_keys, children=[], config={redis: "1", keys: ""}), "Failed", "Degraded"),
        "suspended": (of(crew=_suspended()), "Current", "Suspended"),
        "suspended and stalled": (of(crew=_suspended(), has_redis_secret=False), "Failed", "Degraded"),
        "store away": (of(load=None, fleet=None, store_error="away"), "InProgress", "Progressing"),
        "a budget exhausted": (
            of(budgets=_SPENT),
            "Current",
            "Healthy",
        ),
        "paused": (paused.status(there.status, now=NOW), "Current", "Healthy"),
        "no Secret": (of(has_redis_secret=False), "Failed", "Degraded"),
        "no user": (of(no_user=(Reason.REDIS_USER_REFUSED, "so")), "Failed", "Degraded"),
        "no agent": (of(unavailable=["a"]), "Failed", "Degraded"),
        "no worker": (of(children=[silent], load=Load(1, 0)), "Failed", "Degraded"),
        "refused": (of(children=[], refusal=(planned(there).revision, "no")), "Failed", "Degraded"),
        "forbidden": (of(denied="no right"), "Failed", "Degraded"),
        "no room": (of(hold=Hold("team", "crews", 3, 3, 1, "quotas.default.hard")), "Failed", "Degraded"),
        **{reason.value: (of(fault=(reason, "so")), "Failed", "Degraded") for reason in faults},
    }


def _of_heartbeats() -> dict[str, tuple[Mapping[str, Any] | None, str, str]]:
    stalled = (
        *(Reason.INVALID_SCHEDULE, Reason.INVALID_SPEC, Reason.AGENT_UNAVAILABLE),
        *(Reason.CREW_NOT_FOUND, Reason.CREW_NOT_STORED),
    )
    found: dict[str, tuple[Mapping[str, Any] | None, str, str]] = {}
    for reason in (Reason.AVAILABLE, *stalled):
        status = heartbeat.status({"metadata": {"generation": GENERATION}}, (reason, "so"), None, now=NOW)
        is_well = reason is Reason.AVAILABLE
        found[f"heartbeat {reason}"] = (status, *(("Current", "Healthy") if is_well else ("Failed", "Degraded")))
    return found


CASES = _of_crews() | _of_heartbeats()


@pytest.mark.pure
@pytest.mark.parametrize("name", CASES)
def test_kstatus_says_what_is_so(name: str) -> None:
    status, wanted, _ = CASES[name]
    assert status is not None
    assert kstatus({"metadata": {"generation": GENERATION}, "status": status}) == wanted
    later = kstatus({"metadata": {"generation": GENERATION + 1}, "status": status})
    assert later == "InProgress", "a change that was not taken up yet"


@pytest.mark.pure
def test_every_reason_is_in_some_status() -> None:
    said = {c["reason"] for status, *_ in CASES.values() for c in (status or {}).get("conditions", [])}
    assert said == set(Reason)


async def test_argo_cd_agrees_by_the_script_in_the_docs(redis_url: str) -> None:
    """Redis runs the script, which Argo CD runs in Lua, too."""
    (script,) = re.findall(r"```lua\n(.*?)```", DOCS.read_text(), re.DOTALL)
    text = f"local obj = cjson.decode(ARGV[1])\nlocal function health()\n{script}end\nreturn health().status"
    async with connection.connected(redis_url) as client:
        for name, (status, _, wanted) in CASES.items():
            for generation, health in ((GENERATION, wanted), (GENERATION + 1, "Progressing")):
                obj = json.dumps({"metadata": {"generation": generation}, "status": status})
                assert await client.eval(text, 0, obj) == health, name
