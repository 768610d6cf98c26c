"""The bounds of a crew's tasks. Pure."""

from __future__ import annotations

from pydantic import Field

from watchbill.api.meta import Strict


class Tasks(Strict):
    """Bounds of the crew's tasks."""

    timeout_seconds: int = Field(
        default=300, ge=1, le=604_800, description="Seconds a task may run before it counts as failed."
    )
    max_attempts: int = Field(
        default=3,
        ge=1,
        le=100,
        description="Attempts of a task, including those whose worker died, before it becomes a dead letter.",
    )
    backoff_seconds: int = Field(
        default=2,
        ge=0,
        le=3600,
        description="Longest pause in seconds before the second attempt; it doubles with each further attempt, and the "
        "actual pause is random. A delay that the failure asks for (HTTP Retry-After) is added.",
    )
    max_queued: int = Field(
        default=100_000,
        ge=1,
        le=10_000_000,
        description="Number of tasks in the queue above which new ones are refused; a run of the whole crew needs as "
        "many as the steps with which it begins.",
    )
    result_ttl_seconds: int = Field(
        default=3600,
        ge=1,
        le=2_592_000,
        alias="resultTTLSeconds",
        description="Seconds for which a finished task and its result are kept.",
    )
    max_results: int = Field(
        default=100_000,
        ge=100,
        le=10_000_000,
        description="Finished tasks and runs above which the oldest are removed, even before resultTTLSeconds.",
    )
    lease_seconds: int = Field(
        default=15,
        ge=3,
        le=3600,
        description="Seconds without a renewal after which a worker counts as dead, and others take over its tasks.",
    )
