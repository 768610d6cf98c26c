"""Manifests that the API server and `parse` must both take: every field, and each limit just reached."""

from __future__ import annotations

from typing import Any, Final

from e2e.control_plane.manifests import (
    ABSENT,
    TEAM,
    crew,
    destinations,
    flow,
    heartbeat,
    largest_crew,
    largest_heartbeat,
    limits,
    models,
    numbers,
    scheduled,
    spending,
    watching,
)

_AGENT: Final = "spec.agents[0]."

CREWS: Final[dict[str, dict[str, Any]]] = {
    "the least there can be": crew({"spec.agents": [{"name": "a", "class": "EchoAgent"}]}),
    "every field": {
        **crew(labels={"team": "press", "example.org/x": ""}, annotations={"example.org/why": "any text, é"}),
        "spec": {
            "description": "Researches and writes",
            "executionMode": "flow",
            "model": "openai:gpt-5-mini",
            "sharedTools": ["calculator"],
            "maxParallelTasks": 5,
            "tasks": {
                "timeoutSeconds": 60,
                "maxAttempts": 2,
                "backoffSeconds": 3,
                "maxQueued": 9,
                "resultTTLSeconds": 7,
                "maxResults": 500,
                "leaseSeconds": 10,
            },
            "workers": {
                "image": "registry.example:5000/press/workers:1.2@sha256:00",
                "minReplicas": 1,
                "maxReplicas": 2,
                "concurrency": 3,
                "idleSeconds": 4,
                "envFrom": [{"secretRef": {"name": "keys"}, "prefix": "LLM_"}, {"configMapRef": {"name": "places"}}],
                "redisSecretRef": {"name": "press-redis"},
                "template": {
                    "metadata": {"labels": {"a": "b"}},
                    "spec": {"containers": [{"name": "worker", "env": [{"name": "EMPTY", "value": ""}]}]},
                },
                "scaling": {"mode": "External"},
                "replicas": 5,
            },
            "agents": [
                {
                    "name": "A.1_b-2",
                    "class": "package.module:Class",
                    "model": "anthropic:claude",
                    "baseURL": "https://127.0.0.1:8000/v1",
                    "systemPrompt": "You write.",
                    "prompt": "About {input}, with {{braces}}",
                    "tools": ["search", "module:function"],
                    "config": {"temperature": 0.7, "nested": {"deep": [1, None, {"x": "z"}]}, "nothing": None},
                    "timeoutSeconds": 120,
                },
                {"name": "9"},
            ],
            "flowRelations": [{"source": ["A.1_b-2"], "target": ["9"]}],
            "requiresApproval": ["9", "search", "module:function"],
            "approvalTimeoutSeconds": 60,
        },
    },
    "a name of 52 characters": crew(name="a" * 52),
    "a name of one digit": crew(name="1"),
    "a name with dashes": crew(name="a--b-9"),
    "labels and annotations of every form": crew(
        labels={"a": "", "A_b.C-9": "x" * 63, "x" * 63: "9", "p" * 253 + "/n": "a.b_c-D", "1.x-y/Z": "v"},
        annotations={"A.B/C": "any\ntext, é", "x" * 63: "", "why": "x" * 261_000},
    ),
    "what Kubernetes writes about it": crew(
        uid="0b5e", generation=2, creationTimestamp=None, selfLink="/x", finalizers=["a/b"], generateName="blog-"
    ),
    "mode parallel": crew({"spec.executionMode": "parallel"}),
    "mode sequential": crew({"spec.executionMode": "sequential"}),
    "a flow without relations": flow(),
    "a hierarchy without a reviewer": crew(
        {"spec.executionMode": "hierarchical", "spec.hierarchy": {"manager": "writer"}}
    ),
    "a hierarchy with a reviewer": crew(
        {
            "spec.executionMode": "hierarchical",
            "spec.agents": [{"name": name, "class": "EchoAgent"} for name in ("lead", "coder", "critic")],
            "spec.hierarchy": {"manager": "lead", "reviewer": "critic", "maxItems": 1, "maxDepth": 2, "maxRounds": 1},
        }
    ),
    "a loop without a condition": crew({"spec.executionMode": "loop", "spec.loop": {"maxIterations": 1}}),
    "a loop with a field": crew(
        {
            "spec.executionMode": "loop",
            "spec.loop": {"maxIterations": 100, "until": {"agent": "writer", "field": "a b.done.0"}},
        }
    ),
    "a loop with a predicate": crew(
        {"spec.executionMode": "loop", "spec.loop": {"maxIterations": 2, "until": {"predicate": "m.n:f"}}}
    ),
    **{
        f"a condition with {name}": crew({"spec.agents[1].when": {"step": "researcher", "field": "x", name: value}})
        for name, value in (
            *(("eq", ""), ("ne", "7"), ("gt", -1.5), ("lt", 7), ("atLeast", 7), ("atMost", 0.5)),
            *(("in", ["a", "b"]), ("exists", False)),
        )
    },
    "a condition over all of an output": crew({"spec.agents[1].when": {"step": "researcher", "exists": True}}),
    "a list of a step": crew({"spec.agents[1].forEach": "{steps.researcher.found items.0}"}),
    "a list that is an input": crew({"spec.agents[0].forEach": "{inputs.a-b_2}"}),
    "errors that are passed on": crew({"spec.onError": "Continue", "spec.agents[0].onError": "Fail"}),
    "a synthesis with a class": crew(
        {"spec.synthesis": {"class": "m:C", "config": {"x": [1, None]}, "prompt": "{steps.writer}"}}
    ),
    "a synthesis with the crew's model": crew({"spec.model": "m", "spec.synthesis": {"systemPrompt": "Sum up."}}),
    "an agent's name of 63 characters": crew({f"{_AGENT}name": "a" * 63}),
    "agents whose names differ in case": crew({f"{_AGENT}name": "Writer"}),
    "100 agents": crew({"spec.agents": [{"name": name, "class": "EchoAgent"} for name in TEAM]}),
    "a model for all": crew({"spec.model": "m", "spec.agents[0].class": ABSENT, "spec.agents[1].class": ""}),
    "a model of its own": crew({f"{_AGENT}class": ABSENT, f"{_AGENT}model": "m"}),
    "an LLMAgent with the crew's model": crew({f"{_AGENT}class": "LLMAgent", "spec.model": "m"}),
    "an LLMAgent with a model of its own": crew({f"{_AGENT}class": "LLMAgent", f"{_AGENT}model": "m"}),
    "an address with @ behind the host": crew({f"{_AGENT}baseURL": "http://x/@y?a@b#c@d"}),
    "a class and a model": crew({f"{_AGENT}model": "m", "spec.model": "m2"}),
    "what may be empty is empty": crew(
        {
            "spec.description": "",
            "spec.model": "",
            "spec.sharedTools": [],
            "spec.flowRelations": [],
            "spec.requiresApproval": [],
            "spec.tasks": {},
            "spec.workers": {"image": "", "envFrom": [], "template": {}, "scaling": {}},
            f"{_AGENT}model": "",
            f"{_AGENT}baseURL": "",
            f"{_AGENT}systemPrompt": "",
            f"{_AGENT}prompt": "",
            f"{_AGENT}tools": [],
            f"{_AGENT}config": {},
        }
    ),
    "a description of 4096 characters, each of four bytes": crew({"spec.description": "😀" * 4096}),
    "a class of 253 characters": crew({f"{_AGENT}class": "é" * 253}),
    "a model of 253 characters": crew({f"{_AGENT}model": "é" * 253, "spec.model": "m" * 253}),
    "an address by http": crew({f"{_AGENT}baseURL": "http://" + "x" * 2041}),
    "128 KiB of system prompt": crew({f"{_AGENT}systemPrompt": "x" * 131_072}),
    "128 KiB of prompt, in characters of two bytes": crew({f"{_AGENT}prompt": "é" * 65_536}),
    "128 KiB of prompt, in characters of four bytes": crew({f"{_AGENT}prompt": "😀" * 32_768}),
    "100 tools of 253 characters": crew(
        {f"{_AGENT}tools": [f"{i:03}".ljust(253, "t") for i in range(100)], "spec.sharedTools": ["000"]}
    ),
    "100 shared tools": crew({"spec.sharedTools": [str(i) for i in range(100)]}),
    "a config of 64 entries": crew({f"{_AGENT}config": {f"k{i}": i for i in range(64)}}),
    "a config with names that mean something elsewhere": crew(
        {f"{_AGENT}config": {"apiVersion": 1, "kind": [], "metadata": {"name": None}, "x-y.z/Ä": True}}
    ),
    "some of what workers have": crew({"spec.workers": {"concurrency": 2}}),
    "scaling Auto": crew({"spec.workers.scaling.mode": "Auto"}),
    "an image of 512 characters": crew({"spec.workers.image": "i" * 512}),
    "32 sources of environment": crew(
        {"spec.workers.envFrom": [{"secretRef": {"name": "n" * 253}, "prefix": "P" * 253}] * 32}
    ),
    "a template of 16 entries": crew({"spec.workers.template": {f"k{i}": [None] for i in range(16)}}),
    "as few workers as many": crew({"spec.workers": {"minReplicas": 7, "maxReplicas": 7}}),
    "more replicas than maxReplicas": crew({"spec.workers": {"replicas": 9, "maxReplicas": 3}}),
    "a flow like a diamond": flow((["a"], ["b", "c"]), (["b", "c"], ["d"]), agents="abcd"),
    "the same relation twice": flow((["a"], ["b"]), (["a"], ["b"])),
    "the largest flow": largest_crew(),
    # beyond what can be stored, and just what can be sent
    "the largest flow, and with it 3 MB of prompts": largest_crew(prompt_characters=12_500),
}

HEARTBEATS: Final[dict[str, dict[str, Any]]] = {
    "by interval": heartbeat(),
    "by schedule": scheduled("0 9 * * 1-5"),
    "every field": {
        **heartbeat(labels={"team": "press"}),
        "spec": {
            "crewRef": {"name": "blog-team"},
            "agent": "writer",
            "schedule": "*/5 0-6,22 1 JAN MON",
            "timeZone": "Europe/Berlin",
            "jitterSeconds": 300,
            "startingDeadlineSeconds": 3600,
            "missed": "All",
            "successfulRunsHistoryLimit": 3,
            "failedRunsHistoryLimit": 0,
            "concurrencyPolicy": "Forbid",
            "prompt": "Write of {slot}. Äöü 😀",
            "inputs": {"notes": "of {now}", "e-m_pty": ""},
            "priority": "HIGH",
            "suspend": True,
            "metadata": {"team": "press", "": "", "a key of any form/é": "x"},
        },
    },
    **{f"in zone {zone}": scheduled("0 9 * * *", zone) for zone in ("UTC", "Etc/GMT+12", "EST5EDT", "Asia/Kathmandu")},
    **{f"{macro}": scheduled(macro) for macro in ("@hourly", "@daily", "@weekly", "@monthly", "@yearly")},
    **{f"missed {rule}": heartbeat({"spec.missed": rule}) for rule in ("Skip", "Once", "All")},
    **{f"concurrencyPolicy {p}": heartbeat({"spec.concurrencyPolicy": p}) for p in ("Allow", "Forbid", "Replace")},
    "for a role": heartbeat({"spec.role": "Lead.of_all-1"}),
    "jitter as long as the interval": heartbeat({"spec.intervalSeconds": 60, "spec.jitterSeconds": 60}),
    "zone UTC said with an interval": heartbeat({"spec.timeZone": "UTC"}),
    **{
        f"priority {name}": heartbeat({"spec.priority": name})
        for name in ("CRITICAL", "HIGH", "NORMAL", "LOW", "BACKGROUND")
    },
    "256 KiB of prompt": heartbeat({"spec.prompt": "x" * 262_144}),
    "256 KiB of prompt, in characters of four bytes": heartbeat({"spec.prompt": "😀" * 65_536}),
    "62 entries of metadata": heartbeat({"spec.metadata": {f"k{i}": "" for i in range(62)}}),
    "an entry of metadata of 4096 characters": heartbeat({"spec.metadata": {"k": "é" * 4096}}),
    **{f"called {name}, as no crew may be": heartbeat(name=name) for name in ("id", "list", "tenants")},
    "the largest": largest_heartbeat(),
}

ACCEPTED: Final = {
    **{f"crew: {what}": manifest for what, manifest in CREWS.items()},
    **{f"heartbeat: {what}": manifest for what, manifest in HEARTBEATS.items()},
    **numbers.ACCEPTED,
    **destinations.ACCEPTED,
    **spending.ACCEPTED,
    **limits.ACCEPTED,
    **watching.ACCEPTED,
    **models.ACCEPTED,
}
