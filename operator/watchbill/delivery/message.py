"""A message to a destination, and the answer of one that took it. Pure."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from watchbill.tasks import RunResult, TaskResult


class Message(BaseModel):
    """One attempt to deliver one result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    delivery_id: str = Field(
        min_length=1,
        max_length=240,
        pattern=r"^[A-Za-z0-9._/-]+$",
        description="Unique per result and destination, and the same at every attempt, so that receivers can tell "
        "that a message comes again.",
    )
    attempt: int = Field(default=1, ge=1)
    task_id: str
    agent_name: str
    success: bool
    output: Any = Field(default=None, description="Any JSON value: what the agent returned.")
    error: str | None = None
    execution_time_ms: float = 0.0
    metadata: dict[str, Any] = Field(default_factory=dict)
    remaining: tuple[str, ...] = Field(
        default=(), description="Recipients that earlier attempts have not reached; empty: all that the channel has."
    )

    @classmethod
    def of(
        cls, result: TaskResult | RunResult, delivery_id: str, attempt: int = 1, remaining: tuple[str, ...] = ()
    ) -> Self:
        """The message about a task's result, or about a run's: its agent is then the crew, `namespace/name`."""
        if isinstance(result, RunResult):
            who: dict[str, Any] = {"task_id": result.run_id, "agent_name": result.crew}
        else:
            who = {"task_id": result.task_id, "agent_name": result.agent_name, "metadata": result.metadata}
        return cls(
            delivery_id=delivery_id,
            attempt=attempt,
            **who,
            success=result.success,
            output=result.output,
            error=result.error,
            execution_time_ms=result.execution_time_ms,
            remaining=remaining,
        )

    def payload(self) -> dict[str, Any]:
        """The seven values that programs receive, as JSON has them."""
        return self.model_dump(mode="json", exclude={"delivery_id", "attempt", "remaining"})


class Delivered(BaseModel):
    """The answer of a destination that took a message."""

    model_config = ConfigDict(frozen=True)

    status: int | None = Field(default=None, description="Status of HTTP or SMTP; None for channels without one.")
    detail: str = Field(default="", description="More about it, for people; without secrets.")
