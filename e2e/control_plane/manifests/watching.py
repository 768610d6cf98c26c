"""Watches of a crew."""

from __future__ import annotations

from typing import Any, Final

from e2e.control_plane.manifests import TEAM, Refused, crew

_AT: Final = "spec.watches[0]"
_ONE: Final = {"name": "mend", "events": ["task_failed"]}


def _watch(**fields: Any) -> dict[str, Any]:
    return crew({"spec.watches": [{**_ONE, **fields}]})


ACCEPTED: Final = {
    "watches of tasks and of runs": crew(
        {
            "spec.watches": [
                {**_ONE, "ofAgent": "researcher", "agent": "writer", "prompt": "{event.task_id}", "priority": "HIGH"},
                {"name": "end", "events": ["mission_state_changed"], "states": ["failed"], "ofHeartbeat": "night"},
                {"name": "all", "events": ["mission_state_changed", "task_failed"], "inputs": {"e-m_pty": ""}},
            ]
        }
    ),
    "20 watches of 100 agents": crew(
        {
            "spec.agents": [{"name": name, "class": "EchoAgent"} for name in TEAM],
            "spec.watches": [
                {**_ONE, "name": f"w{i}", "agent": TEAM[-1], "ofAgent": TEAM[-1], "prompt": "é" * 32_768}
                for i in range(20)
            ],
        }
    ),
    "a watch with 16 inputs": _watch(inputs={f"i{i}": "é" * 32_768 for i in range(16)}),
    "20 watches of the last of a hundred roles": crew(
        {
            "spec.agents": [
                {"name": name, "class": "EchoAgent", "roles": [f"r{i:062}"]} for i, name in enumerate(TEAM)
            ],
            "spec.watches": [{**_ONE, "name": f"w{i}", "role": f"r{len(TEAM) - 1:062}"} for i in range(20)],
        }
    ),
}
REFUSED: Final = [
    Refused("a watch of nothing", crew({"spec.watches": [{"name": "mend"}]}), f"{_AT}.events"),
    Refused("a watch of no event", _watch(events=[]), f"{_AT}.events"),
    *(
        Refused(f"a watch of {kind}", _watch(events=[kind]), f"{_AT}.events[0]")
        for kind in ("task_vanished", "mission_watch_triggered", "mission_event", "worker_lost", "agent_state_changed")
    ),
    Refused(
        "a watch's event twice",
        _watch(events=["task_failed", "task_failed"]),
        f"{_AT}.events",
        server=f"{_AT}.events[1]",
    ),
    Refused("states of a task", _watch(states=["failed"]), f"{_AT}.states", says="states are those of runs"),
    Refused("a state that is none", _watch(events=["mission_state_changed"], states=["dead"]), f"{_AT}.states[0]"),
    Refused(
        "an agent's run",
        _watch(events=["mission_state_changed"], ofAgent="writer"),
        f"{_AT}.ofAgent",
        says="the state of a run is no agent's",
    ),
    *(
        Refused(
            f"a watch's {field} from elsewhere",
            _watch(**{field: "nobody"}),
            f"{_AT}.{field}",
            server="spec.watches",
            says="a watch names an agent that is not in this crew",
        )
        for field in ("agent", "ofAgent")
    ),
    Refused(
        "a watch's role that nobody has",
        _watch(role="nobody"),
        f"{_AT}.role",
        server="spec.watches",
        says="a watch names a role that no agent of this crew has",
    ),
    Refused(
        "a watch of an agent and a role",
        crew({"spec.agents[0].roles": ["r"], "spec.watches": [{**_ONE, "agent": "writer", "role": "r"}]}),
        f"{_AT}.role",
        says="agent and role are both given",
    ),
    Refused("a watch's prompt that is too long", _watch(prompt="x" * 32_769), f"{_AT}.prompt"),
    Refused("17 inputs of a watch", _watch(inputs={f"i{i}": "" for i in range(17)}), f"{_AT}.inputs"),
    Refused("a watch's input that is too long", _watch(inputs={"i": "x" * 32_769}), f"{_AT}.inputs.i"),
    Refused("a watch's input that is a number", _watch(inputs={"i": 5}), f"{_AT}.inputs.i"),
    Refused("a watch's priority", _watch(priority="SOON"), f"{_AT}.priority"),
    Refused("a watch's name", _watch(name="Mend"), f"{_AT}.name"),
    Refused("a watch's heartbeat", _watch(ofHeartbeat="Night"), f"{_AT}.ofHeartbeat"),
    Refused(
        "two watches of one name",
        crew({"spec.watches": [_ONE, _ONE]}),
        "spec.watches[1].name",
        server="spec.watches[1]",
    ),
    Refused("21 watches", crew({"spec.watches": [{**_ONE, "name": f"w{i}"} for i in range(21)]}), "spec.watches"),
]
