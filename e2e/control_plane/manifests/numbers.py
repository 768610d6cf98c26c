"""Every number of the spec with its least and its largest value."""

from __future__ import annotations

from typing import Any, Final

from e2e.control_plane.manifests import Refused, crew, heartbeat

_CREW: Final[dict[str, tuple[int, int]]] = {
    "spec.agents[0].timeoutSeconds": (1, 604_800),
    "spec.agents[0].batch.maxWaitSeconds": (1, 86_400),
    "spec.agents[0].batch.maxGatherSeconds": (0, 3600),
    "spec.agents[0].batch.maxRequests": (1, 10_000),
    "spec.maxParallelTasks": (1, 1000),
    "spec.loop.maxIterations": (1, 100),
    "spec.synthesis.timeoutSeconds": (1, 604_800),
    "spec.approvalTimeoutSeconds": (1, 2_592_000),
    "spec.hierarchy.maxItems": (1, 1000),
    "spec.hierarchy.maxDepth": (1, 5),
    "spec.hierarchy.maxRounds": (1, 20),
    "spec.tasks.timeoutSeconds": (1, 604_800),
    "spec.tasks.maxAttempts": (1, 100),
    "spec.tasks.backoffSeconds": (0, 3600),
    "spec.tasks.maxQueued": (1, 10_000_000),
    "spec.tasks.resultTTLSeconds": (1, 2_592_000),
    "spec.tasks.maxResults": (100, 10_000_000),
    "spec.tasks.leaseSeconds": (3, 3600),
    "spec.workers.minReplicas": (0, 1000),
    "spec.workers.maxReplicas": (1, 1000),
    "spec.workers.concurrency": (1, 1000),
    "spec.workers.idleSeconds": (1, 86_400),
    "spec.workers.replicas": (0, 1000),
    "spec.workers.scaling.up.stabilizationWindowSeconds": (0, 3600),
    "spec.workers.scaling.up.waitSeconds": (1, 86_400),
    "spec.workers.scaling.up.policies[0].value": (1, 1000),
    "spec.workers.scaling.up.policies[0].periodSeconds": (1, 1800),
    "spec.workers.scaling.down.stabilizationWindowSeconds": (0, 3600),
    "spec.workers.scaling.down.policies[0].value": (1, 1000),
    "spec.workers.scaling.down.policies[0].periodSeconds": (1, 1800),
    "spec.delivery[0].redisStream.maxLength": (1, 10_000_000),
    "spec.toolServers[0].timeoutSeconds": (1, 600),
    "spec.httpTools[0].timeoutSeconds": (1, 600),
    "spec.budgets[0].tokens": (1, 10**15),
    "spec.prices[0].batchPercent": (0, 100),
    "spec.agents[0].maxConcurrent": (1, 10_000),
    "spec.agents[0].rateLimit.requests": (1, 1_000_000),
    "spec.agents[0].rateLimit.periodSeconds": (1, 86_400),
    "spec.agents[0].rateLimit.burst": (1, 1_000_000),
    "spec.modelLimits[0].requests": (1, 1_000_000),
    "spec.modelLimits[0].tokens": (1, 10**12),
    "spec.modelLimits[0].periodSeconds": (1, 86_400),
    "spec.modelLimits[0].burst": (1, 1_000_000),
}
_HEARTBEAT: Final = {
    "spec.intervalSeconds": (1, 31_622_400),
    "spec.startingDeadlineSeconds": (1, 31_622_400),
    "spec.jitterSeconds": (0, 3600),
    "spec.successfulRunsHistoryLimit": (0, 100),
    "spec.failedRunsHistoryLimit": (0, 100),
}
FIELDS: Final = (*_CREW, *_HEARTBEAT)


def _with(field: str, value: Any) -> dict[str, Any]:
    if field in _HEARTBEAT:
        return heartbeat({**({"spec.intervalSeconds": 3600} if field == "spec.jitterSeconds" else {}), field: value})
    # so that nothing but the bound itself can be the reason
    room: dict[str, Any] = {"spec.workers.maxReplicas": 1000} if field == "spec.workers.minReplicas" else {}
    if "redisStream" in field:
        room = {"spec.delivery": [{"name": "d", "redisStream": {"stream": "s"}}]}
    if "loop" in field:
        room = {"spec.executionMode": "loop"}
    if "hierarchy" in field:
        room = {"spec.executionMode": "hierarchical", "spec.hierarchy.manager": "writer"}
    if "synthesis" in field:
        room = {"spec.synthesis.class": "EchoAgent"}
    if field.startswith("spec.toolServers"):
        room = {"spec.toolServers": [{"name": "docs", "url": "https://docs.example.com/mcp"}]}
    if field.startswith("spec.httpTools"):
        room = {"spec.httpTools": [{"name": "t", "description": "d", "url": "https://shop.example.com/"}]}
    if "batch.max" in field and "Wait" not in field:
        room = {"spec.agents[0].batch.maxWaitSeconds": 60}
    if "budgets" in field:
        room = {"spec.budgets": [{"name": "b"}]}
    if "prices" in field:
        room = {"spec.prices": [{"model": "m", "inputUSDPerMillion": "1", "outputUSDPerMillion": "2"}]}
    if "rateLimit" in field:
        room = {"spec.agents[0].rateLimit": {"requests": 1}}
    if "modelLimits" in field:
        room = {"spec.modelLimits": [{"model": "m", "requests": 1, "tokens": 1}]}
    if "policies" in field:
        policies = field.partition("[")[0]
        room = {policies: [{"type": "Pods", "value": 1, "periodSeconds": 1}]}
    return crew({**room, field: value})


ACCEPTED: Final = {
    f"{field} is {value}": _with(field, value)
    for field, bounds in (_CREW | _HEARTBEAT).items()
    for value in dict.fromkeys(bounds)
}

_BEYOND: Final = {
    field: (least - 1, largest + 1, 2**63 - 1) for field, (least, largest) in (_CREW | _HEARTBEAT).items()
}
REFUSED: Final = [
    *(Refused(f"{field} is {value}", _with(field, value), field) for field in _BEYOND for value in _BEYOND[field]),
    *(Refused(f"{field} is {value!r}", _with(field, value), field) for field in FIELDS for value in ("5", 1.5, True)),
]
