"""Manifests that the API server and `parse` must both refuse, with the field that each of them must name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from e2e.control_plane.manifests import (
    ABSENT,
    TEAM,
    Refused,
    as_yaml,
    changed,
    crew,
    destinations,
    flow,
    heartbeat,
    limits,
    models,
    numbers,
    refused_hierarchy,
    scheduled,
    spending,
    watching,
)
from e2e.control_plane.manifests.refused_structure import (
    AGENT,
    BYTES,
    METADATA,
    NAMES,
    RELATIONS_AT,
    STRUCTURE,
    UNKNOWN,
    each,
    short,
)

TEXTS: Final = [
    *each(
        crew,
        ("spec.description", 5),
        ("spec.description", True),
        ("spec.description", "😀" * 4097),
        ("spec.model", "m" * 254),
        (f"{AGENT}class", "é" * 254),
        (f"{AGENT}model", "m" * 254),
        (f"{AGENT}baseURL", "localhost:8000"),
        (f"{AGENT}baseURL", "HTTP://localhost"),
        (f"{AGENT}baseURL", " http://localhost"),
        (f"{AGENT}baseURL", "http://localhost\n"),
        (f"{AGENT}baseURL", "http://" + "x" * 2042),
        (f"{AGENT}systemPrompt", "x" * 131_073),
        (f"{AGENT}prompt", "x" * 131_073),
    ),
    *each(heartbeat, ("spec.prompt", "x" * 262_145), ("spec.metadata.k", "é" * 4097)),
    *(
        Refused(f"{field}: {short(text)}", kind({field: text}), field, says=BYTES.format(limit))
        for kind, field, limit in (
            (crew, f"{AGENT}systemPrompt", 131_072),
            (crew, f"{AGENT}prompt", 131_072),
            (heartbeat, "spec.prompt", 262_144),
        )
        for text in ("é" * (limit // 2) + "x", "😀" * (limit // 4) + "x")
    ),
    Refused("a description that is y", as_yaml(crew()) + "  description: y\n", "spec.description"),
    Refused(
        "an agent with neither class nor model",
        crew({f"{AGENT}class": ABSENT}),
        f"{AGENT}class",
        server="spec.agents",
        says="neither a class nor a model",
    ),
    Refused(
        "an agent whose class and model are empty, and the crew's too",
        crew({"spec.model": "", "spec.agents[1].class": "", "spec.agents[1].model": ""}),
        "spec.agents[1].class",
        server="spec.agents",
        says="neither a class nor a model",
    ),
    *(
        Refused(
            f"an agent of class {name} without a model",
            crew({f"{AGENT}class": name}),
            f"{AGENT}model",
            server="spec.agents",
            says="is an LLMAgent and has no model",
        )
        for name in ("LLMAgent", "watchbill.agents.llm:LLMAgent")
    ),
    *(
        Refused(
            f"a key in the address {short(url)}",
            crew({f"{AGENT}baseURL": url}),
            f"{AGENT}baseURL",
            says="user or password",
        )
        for url in ("https://me:secret@127.0.0.1/v1", "http://key@x", "http://@x", "http://a:b@c@d?e")
    ),
]

LISTS: Final = [
    *(
        Refused(f"{field}: {short(value)}", crew({field: value}), place)
        for field, value, place in (
            (f"{AGENT}tools", "search", f"{AGENT}tools"),
            (f"{AGENT}tools", [5], f"{AGENT}tools[0]"),
            (f"{AGENT}tools", [None], f"{AGENT}tools[0]"),
            (f"{AGENT}tools", ["a", ""], f"{AGENT}tools[1]"),
            (f"{AGENT}tools", ["t" * 254], f"{AGENT}tools[0]"),
            (f"{AGENT}tools", [str(i) for i in range(101)], f"{AGENT}tools"),
            ("spec.sharedTools", {}, "spec.sharedTools"),
            ("spec.sharedTools", [""], "spec.sharedTools[0]"),
            ("spec.sharedTools", ["t" * 254], "spec.sharedTools[0]"),
            ("spec.sharedTools", [str(i) for i in range(101)], "spec.sharedTools"),
            (f"{AGENT}config", [], f"{AGENT}config"),
            (f"{AGENT}config", "x", f"{AGENT}config"),
            (f"{AGENT}config", {f"k{i}": i for i in range(65)}, f"{AGENT}config"),
        )
    ),
    Refused(
        "a tool listed twice", crew({f"{AGENT}tools": ["a", "b", "a"]}), f"{AGENT}tools", server=f"{AGENT}tools[2]"
    ),
    Refused(
        "a shared tool listed twice",
        crew({"spec.sharedTools": ["a", "a"]}),
        "spec.sharedTools",
        server="spec.sharedTools[1]",
    ),
    Refused("63 entries of metadata", heartbeat({"spec.metadata": {f"k{i}": "" for i in range(63)}}), "spec.metadata"),
]

_STRANGER: Final = "cite an agent that is not in this crew"
_OTHER_MODE: Final = "mean something in executionMode flow only"
_ABOVE: Final = "minReplicas is above maxReplicas"

# As the crew of the specification: market_researcher is cited, and no agent.
FORGOTTEN: Final = crew(
    {
        "spec.executionMode": "flow",
        "spec.agents": [
            {"name": name, "class": "EchoAgent"} for name in ("coordinator", "tech_researcher", "synthesizer")
        ],
        "spec.flowRelations": [
            {"source": ["coordinator"], "target": ["tech_researcher", "market_researcher"]},
            {"source": ["tech_researcher"], "target": ["synthesizer"]},
        ],
    },
    name="research-synthesis-team",
)

APPROVALS: Final = [
    Refused(
        "approval of an agent that is not there",
        crew({"spec.requiresApproval": ["nobody"]}),
        "spec.requiresApproval[0]",
        server="spec.requiresApproval",
        says="requiresApproval cites what is no agent of this crew",
    ),
]
RELATIONS: Final = [
    Refused("market_researcher", FORGOTTEN, f"{RELATIONS_AT}[0].target[1]", server=RELATIONS_AT, says=_STRANGER),
    Refused(
        "an unknown source",
        flow((["a"], ["b"]), (["x"], ["c"])),
        f"{RELATIONS_AT}[1].source[0]",
        server=RELATIONS_AT,
        says=_STRANGER,
    ),
    Refused(
        "what is no agent's name",
        flow((["a"], ["b c"])),
        f"{RELATIONS_AT}[0].target[0]",
        server=RELATIONS_AT,
        says=r"should match|" + _STRANGER,
    ),
    Refused(
        "a name in another case",
        flow((["a"], ["B"])),
        f"{RELATIONS_AT}[0].target[0]",
        server=RELATIONS_AT,
        says=_STRANGER,
    ),
    *(
        Refused(
            f"relations in mode {short(mode)}",
            changed(flow((["a"], ["b"])), {"spec.executionMode": mode}),
            RELATIONS_AT,
            says=_OTHER_MODE,
        )
        for mode in ("sequential", "parallel", ABSENT)
    ),
    *(
        Refused(f"{place}: {short(value)}", changed(flow((["a"], ["b"])), {field: value}), place)
        for field, value, place in (
            (RELATIONS_AT, {}, RELATIONS_AT),
            (RELATIONS_AT, [{"source": ["a"], "target": ["b"]}] * 201, RELATIONS_AT),
            (f"{RELATIONS_AT}[0]", None, f"{RELATIONS_AT}[0]"),
            (f"{RELATIONS_AT}[0].source", ABSENT, f"{RELATIONS_AT}[0].source"),
            (f"{RELATIONS_AT}[0].target", ABSENT, f"{RELATIONS_AT}[0].target"),
            (f"{RELATIONS_AT}[0].source", [], f"{RELATIONS_AT}[0].source"),
            (f"{RELATIONS_AT}[0].target", [], f"{RELATIONS_AT}[0].target"),
            (f"{RELATIONS_AT}[0].source", "a", f"{RELATIONS_AT}[0].source"),
            (f"{RELATIONS_AT}[0].target", ["b", "b" * 64], f"{RELATIONS_AT}[0].target[1]"),
            (f"{RELATIONS_AT}[0].source", ["a", 5], f"{RELATIONS_AT}[0].source[1]"),
            (f"{RELATIONS_AT}[0].source", ["a", "a"], f"{RELATIONS_AT}[0].source[1]"),
            (f"{RELATIONS_AT}[0].target", ["b", "c", "b"], f"{RELATIONS_AT}[0].target[2]"),
        )
    ),
    *(
        Refused(
            f"17 agents as {end}",
            changed(
                flow((["a"], ["b"])),
                {
                    "spec.agents": [{"name": name, "class": "EchoAgent"} for name in ["a", "b", *TEAM[:17]]],
                    f"{RELATIONS_AT}[0].{end}": TEAM[:17],
                },
            ),
            f"{RELATIONS_AT}[0].{end}",
        )
        for end in ("source", "target")
    ),
]

_BOUND: Final = "loop and executionMode loop belong together"
_ONE_CONDITION: Final = "a condition is either a predicate, or an agent and a field"
_ONE_COMPARISON: Final = "exactly one comparison is needed"


def _loop(changes: Mapping[str, Any]) -> dict[str, Any]:
    return crew({"spec.executionMode": "loop", "spec.loop": {"maxIterations": 2}, **changes})


MODES: Final = [
    Refused("a loop without a bound", crew({"spec.executionMode": "loop"}), "spec.loop", says=_BOUND),
    Refused("a bound in another mode", crew({"spec.loop": {"maxIterations": 2}}), "spec.loop", says=_BOUND),
    Refused(
        "an agent called until",
        _loop({f"{AGENT}name": "until"}),
        f"{AGENT}name",
        server="spec.agents",
        says="the name until stands for the condition",
    ),
    Refused(
        "a condition over a stranger",
        _loop({"spec.loop.until": {"agent": "x", "field": "done"}}),
        "spec.loop.until",
        says="loop.until cites an agent that is not in this crew",
    ),
    *(
        Refused(
            f"a condition of {short(until)}", _loop({"spec.loop.until": until}), "spec.loop.until", says=_ONE_CONDITION
        )
        for until in ({}, {"agent": "writer"}, {"field": "x"}, {"agent": "writer", "field": "x", "predicate": "m:f"})
    ),
    *(
        Refused(f"{field}: {short(value)}", _loop({field: value}), field)
        for field, value in (
            ("spec.loop.until", "done"),
            (f"{AGENT}forEach", "steps.a"),
            (f"{AGENT}forEach", "{item}"),
            (f"{AGENT}onError", "Ignore"),
            ("spec.onError", "fail"),
        )
    ),
    *(
        Refused(f"when {short(when)}", crew({f"{AGENT}when": when}), f"{AGENT}when", says=_ONE_COMPARISON)
        for when in ({"step": "writer"}, {"step": "writer", "eq": "a", "ne": "b"}, {"step": "writer", "field": "x"})
    ),
    Refused(
        "a synthesis without a model",
        crew({"spec.synthesis": {}}),
        "spec.synthesis.model",
        server="spec.synthesis",
        says="the synthesis has neither a class nor a model",
    ),
    Refused(
        "an agent called synthesis",
        crew({"spec.synthesis": {"class": "C"}, f"{AGENT}name": "synthesis"}),
        f"{AGENT}name",
        server="spec.agents",
        says="the name synthesis stands for the crew's synthesis",
    ),
]

_W: Final = "spec.workers."
_ONE_SOURCE: Final = "give exactly one of secretRef and configMapRef"

WORKERS: Final = [
    *(
        Refused(f"workers {workers}", crew({"spec.workers": workers}), f"{_W}minReplicas", says=_ABOVE)
        for workers in ({"minReplicas": 9, "maxReplicas": 8}, {"minReplicas": 21})
    ),
    *(
        Refused(f"{_W}{place or field}: {short(value)}", crew({f"{_W}{field}": value}), f"{_W}{place or field}")
        for field, value, place in (
            ("image", "i" * 513, ""),
            ("image", 5, ""),
            ("autoscale", True, ""),
            ("scaling", "Auto", ""),
            ("scaling", {"mode": "auto"}, "scaling.mode"),
            ("scaling", {"replicas": 5}, "scaling.replicas"),
            ("redisSecretRef", "press-redis", ""),
            ("redisSecretRef", {}, "redisSecretRef.name"),
            ("redisSecretRef", {"name": ""}, "redisSecretRef.name"),
            ("redisSecretRef", {"name": "n" * 254}, "redisSecretRef.name"),
            ("redisSecretRef", {"name": "keys", "key": "url"}, "redisSecretRef.key"),
            ("template", [], ""),
            ("template", {f"k{i}": 1 for i in range(17)}, ""),
            ("envFrom", {}, ""),
            ("envFrom", [{"secretRef": {"name": "keys"}}] * 33, ""),
            ("envFrom", [{"secretRef": {"name": "keys"}, "prefix": "P" * 254}], "envFrom[0].prefix"),
            ("envFrom", [{"secretRef": {"name": ""}}], "envFrom[0].secretRef.name"),
            ("envFrom", [{"configMapRef": {}}], "envFrom[0].configMapRef.name"),
            ("envFrom", [{"secretRef": {"name": "keys", "optional": True}}], "envFrom[0].secretRef.optional"),
        )
    ),
    *(
        Refused(
            f"an environment from {short(source)}",
            crew({f"{_W}envFrom": [{"secretRef": {"name": "keys"}}, source]}),
            f"{_W}envFrom[1].secretRef",
            server=f"{_W}envFrom[1]",
            says=_ONE_SOURCE,
        )
        for source in ({}, {"prefix": "P"}, {"secretRef": {"name": "a"}, "configMapRef": {"name": "b"}})
    ),
]

_ZONE: Final = "timeZone is not known"

TIMES: Final = [
    Refused(
        "schedule and intervalSeconds",
        heartbeat({"spec.schedule": "0 9 * * *"}),
        "spec.intervalSeconds",
        says="schedule and intervalSeconds are both given",
    ),
    Refused(
        "neither schedule nor intervalSeconds",
        heartbeat({"spec.intervalSeconds": ABSENT}),
        "spec.schedule",
        says="neither schedule nor intervalSeconds is given",
    ),
    Refused("17 inputs", heartbeat({"spec.inputs": {f"i{i}": "" for i in range(17)}}), "spec.inputs"),
    Refused("an input of 32,769 characters", heartbeat({"spec.inputs": {"i": "x" * 32_769}}), "spec.inputs.i"),
    Refused("an input that is a number", heartbeat({"spec.inputs": {"i": 5}}), "spec.inputs.i"),
    Refused(
        "jitter that is longer than the interval",
        heartbeat({"spec.intervalSeconds": 60, "spec.jitterSeconds": 61}),
        "spec.jitterSeconds",
        says="jitterSeconds is longer than intervalSeconds",
    ),
    *each(heartbeat, ("spec.concurrencyPolicy", "forbid"), ("spec.concurrencyPolicy", "")),
    *each(heartbeat, ("spec.missed", "all"), ("spec.missed", ""), ("spec.missed", True)),
    Refused("an empty schedule", scheduled(""), "spec.schedule"),
    Refused("a schedule of 257 characters", scheduled("0 9 * * *".ljust(257)), "spec.schedule"),
    Refused("a schedule that is a number", scheduled(5), "spec.schedule"),  # type: ignore[arg-type]
    Refused(
        "a time zone without schedule",
        heartbeat({"spec.timeZone": "Europe/Berlin"}),
        "spec.timeZone",
        says="timeZone means something with schedule only",
    ),
    *(
        Refused(f"time zone {short(zone)}", scheduled("0 9 * * *", zone), "spec.timeZone", says=_ZONE)
        for zone in ("Nowhere", "utc", "europe/berlin", "Europe", "Z", "Europe/Berlin/", "Europe/Berlim")
    ),
    *(
        Refused(
            f"time zone {short(zone)}",
            scheduled("0 9 * * *", zone),
            "spec.timeZone",
            says="should match|Too long",
        )
        for zone in ("", "+01:00", "UTC+01:00", "../UTC", "Europe/../UTC", "/UTC", "UTC\n", "a" * 65)
    ),
]

REFUSED: Final = [
    *STRUCTURE,
    *UNKNOWN,
    *NAMES,
    *METADATA,
    *TEXTS,
    *LISTS,
    *RELATIONS,
    *MODES,
    *APPROVALS,
    *refused_hierarchy.HIERARCHIES,
    *WORKERS,
    *TIMES,
    *numbers.REFUSED,
    *destinations.REFUSED,
    *spending.REFUSED,
    *limits.REFUSED,
    *watching.REFUSED,
    *models.REFUSED,
]
