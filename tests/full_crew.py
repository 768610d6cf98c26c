"""A Crew with each of its fields, for tests of what becomes of them."""

from __future__ import annotations

from typing import Any

POLICY = {"type": "Pods", "value": 4, "periodSeconds": 60}

FULL: dict[str, Any] = {
    "metadata": {"name": "blog-team", "namespace": "team", "labels": {"a": "b"}, "annotations": {"note": "x"}},
    "spec": {
        "description": "Writes",
        "executionMode": "flow",
        "agents": [
            {
                "name": "researcher",
                "class": "my_agents:Researcher",
                "model": "anthropic:claude",
                "baseURL": "http://127.0.0.1:1/v1",
                "systemPrompt": "You research.",
                "prompt": "Research: {input}",
                "tools": ["calculator", "t:search"],
                "config": {"temperature": 0.5, "nested": {"x": [1, None]}},
                "timeoutSeconds": 12,
                "inputs": ["log"],
                "fallbackModels": [{"model": "openai:x", "baseURL": "http://127.0.0.1:2/v1"}],
                "outputSchema": {"type": "object", "properties": {"a": {"type": "string"}}},
                "when": {"step": "writer", "field": "a.0", "eq": "x"},
                "forEach": "{steps.writer.list}",
                "onError": "Fail",
                "batch": {"maxWaitSeconds": 3600, "maxGatherSeconds": 5, "maxRequests": 7},
                "maxConcurrent": 2,
                "rateLimit": {"requests": 5, "periodSeconds": 10, "burst": 2},
                "roles": ["reader", "reviewer"],
            },
            {"name": "writer", "class": "LLMAgent"},
        ],
        "model": "openai:gpt-5-mini",
        "baseURL": "http://127.0.0.1:3/v1",
        "sharedTools": ["clock"],
        "flowRelations": [{"source": ["researcher"], "target": ["writer"]}],
        "maxParallelTasks": 3,
        "onError": "Continue",
        "synthesis": {
            "class": "m:S",
            "model": "m",
            "baseURL": "http://127.0.0.1:4/v1",
            "fallbackModels": [{"model": "openai:y", "baseURL": "http://127.0.0.1:5/v1"}],
            "systemPrompt": "s",
            "prompt": "p",
            "config": {"x": 1},
            "timeoutSeconds": 9,
        },
        "tasks": {
            "timeoutSeconds": 30,
            "maxAttempts": 2,
            "backoffSeconds": 5,
            "maxQueued": 50,
            "resultTTLSeconds": 60,
            "maxResults": 700,
            "leaseSeconds": 5,
        },
        "workers": {
            "image": "example.org/team/agents:1",
            "minReplicas": 1,
            "maxReplicas": 4,
            "concurrency": 7,
            "idleSeconds": 60,
            "envFrom": [{"prefix": "A_", "secretRef": {"name": "keys"}}],
            "redisSecretRef": {"name": "other-redis"},
            "template": {"spec": {"priorityClassName": "low"}},
            "rolloutOnChange": False,
            "scaling": {
                "mode": "External",
                "up": {"stabilizationWindowSeconds": 9, "policies": [POLICY], "waitSeconds": 30},
                "down": {"stabilizationWindowSeconds": 600, "policies": [POLICY]},
            },
            "replicas": 2,
        },
        "budgets": [
            {
                "name": "day",
                "scope": "Agent",
                "agent": "researcher",
                "window": "Daily",
                "timeZone": "Europe/Berlin",
                "tokens": 5,
                "usd": "1.50",
                "onExhausted": "Fail",
            }
        ],
        "watches": [
            {
                "name": "mend",
                "events": ["task_failed", "mission_state_changed"],
                "states": ["failed"],
                "ofHeartbeat": "nightly",
                "agent": "writer",
                "prompt": "Mend {event.task_id}",
                "inputs": {"why": "{event.message}"},
                "priority": "HIGH",
            },
            {"name": "check", "events": ["task_completed"], "ofAgent": "researcher", "role": "reviewer"},
        ],
        "modelLimits": [{"model": "m", "requests": 5, "tokens": 900, "periodSeconds": 10, "burst": 2}],
        "prices": [
            {"model": "openai:own", "inputUSDPerMillion": "0.1", "outputUSDPerMillion": "2", "batchPercent": 80}
        ],
        "delivery": [
            {
                "name": "ops",
                "outcomes": ["Failure"],
                "webhook": {"urlFrom": {"secretKeyRef": {"name": "a", "key": "b"}}},
            },
            {"name": "feed", "redisStream": {"stream": "results", "maxLength": 5}},
        ],
        "toolServers": [
            {
                "name": "docs",
                "url": "https://docs.example.com/mcp",
                "headers": {"Authorization": "env:TOKEN"},
                "timeoutSeconds": 9,
            },
            {"name": "git", "command": ["mcp-git"], "env": ["GIT_TOKEN"]},
        ],
        "requiresApproval": ["writer"],
        "approvalTimeoutSeconds": 600,
        "httpTools": [
            {
                "name": "price",
                "description": "The price.",
                "method": "POST",
                "url": "https://shop.example.com/{item}",
                "headers": {"X-Key": "env:KEY"},
                "parameters": {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]},
                "timeoutSeconds": 8,
            }
        ],
    },
}
