"""The configuration of a service and of its heartbeats. Reads one variable of the environment, and does no I/O."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Annotated, Any, Final

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from watchbill import names
from watchbill.errors import InvalidInput, Problem
from watchbill.messaging.config import URL_VARIABLE
from watchbill.records import AgentDefinition, CrewDefinition, TaskPolicy
from watchbill.services.delivery import DeliveryConfig
from watchbill.services.known import Known

NAMESPACE: Final = "default"
TASK_STREAM: Final = "parrot:agent_tasks"
RESULT_STREAM: Final = "parrot:agent_results"
RESULTS_KEPT: Final = 10_000
BOTS: Final = "BotManager"
"""The agent_class of a service's crew. Only a service can load it; other workers leave its tasks to one."""


def default_url() -> str:
    """The store that WATCHBILL_REDIS_URL names, else the one on this machine."""
    return os.environ.get(URL_VARIABLE) or "redis://localhost:6379"


def _stream(value: str) -> str:
    if not value or not value.isprintable() or any(c in value for c in "{} ") or value.startswith(("wb:", "crew:")):
        raise ValueError(
            f"{value!r} can't be a stream. Use printable characters other than braces and spaces, and no name that "
            "begins with wb: or crew:, as Watchbill's own keys do"
        )
    return value


def check_stream(value: object, field: str) -> None:
    """Raises InvalidInput for what can't be the name of a service's stream."""
    try:
        _stream(value if isinstance(value, str) else "")
    except ValueError as error:
        raise InvalidInput(Problem(str(error), f"Correct {field}.", path=field)) from None


StreamName = Annotated[str, AfterValidator(_stream)]


class HeartbeatConfig(Known):
    """Work for one agent, again and again. An agent may have many of them."""

    model_config = ConfigDict(frozen=True)

    agent_name: str = Field(min_length=1)
    cron_expression: str | None = Field(
        default=None, description="Five fields, as in '0 9 * * 1': Monday at nine. 0 and 7 are Sunday."
    )
    interval_seconds: int | None = Field(default=None, ge=1)
    time_zone: str = Field(default="UTC", description="That of cron_expression, as in Europe/Berlin.")
    prompt_template: str = Field(
        default="Perform your scheduled check.",
        description="The prompt. {slot} stands for the time at which it is due, {now} for that at which it fired.",
    )
    enabled: bool = Field(default=True, description="False: the service skips it when it starts.")
    metadata: dict[str, Any] = Field(default_factory=dict, description="Any JSON by name, for each of its tasks.")
    delivery: DeliveryConfig = Field(default_factory=DeliveryConfig, description="Where its results go.")

    @model_validator(mode="after")
    def _fires(self) -> HeartbeatConfig:
        if (self.cron_expression is None) == (self.interval_seconds is None):
            given = "neither cron_expression nor" if self.cron_expression is None else "both cron_expression and"
            raise ValueError(f"{given} interval_seconds is given. Give exactly one of the two")
        return self


class AgentServiceConfig(Known):
    """The configuration of a service. All services of one task_stream share its work."""

    model_config = ConfigDict(frozen=True)

    redis_url: str = Field(
        default_factory=default_url, description="Default: WATCHBILL_REDIS_URL, else redis://localhost:6379."
    )
    redis_db: int = Field(default=0, ge=0, description="The database, where redis_url names none.")
    max_workers: int = Field(default=10, ge=1, description="Agents that run at the same time in this process.")
    task_stream: StreamName = Field(default=TASK_STREAM, description="Stream on which other programs put tasks.")
    result_stream: StreamName = Field(default=RESULT_STREAM, description="Stream on which each result is put.")
    results_kept: int = Field(
        default=RESULTS_KEPT, ge=1, le=10**9, description="Results that result_stream keeps, about."
    )
    consumer_group: str = Field(default="agent_service", min_length=1)
    consumer_name: str | None = Field(default=None, min_length=1, description="Default: one of its own for each start.")
    task_timeout_seconds: int = Field(default=300, ge=1, le=604_800)
    shutdown_timeout_seconds: float = Field(default=30, ge=0)
    max_attempts: int = Field(
        default=3, ge=1, le=100, description="Attempts of a task that fails, or whose service dies."
    )
    heartbeats: list[HeartbeatConfig] = Field(default_factory=list)

    @model_validator(mode="after")
    def _has_two_streams(self) -> AgentServiceConfig:
        if self.task_stream == self.result_stream:
            raise ValueError(
                f"task_stream and result_stream are both {self.task_stream!r}, and a result brings no task. Give "
                "result_stream another name"
            )
        return self

    @property
    def streams(self) -> dict[str, str]:
        """The streams of the service, by field. No delivery may name one."""
        return {"task_stream": self.task_stream, "result_stream": self.result_stream}

    def crew(self) -> CrewDefinition:
        """The crew whose queue holds the tasks."""
        return definition(
            self.task_stream,
            concurrency=self.max_workers,
            tasks=TaskPolicy(timeout_seconds=self.task_timeout_seconds, max_attempts=self.max_attempts),
        )


def crew_name(task_stream: str) -> str:
    """The name of the crew of a task stream: who knows the stream knows the crew."""
    if task_stream == TASK_STREAM:
        return "agent-service"
    named = re.sub(r"[^a-z0-9]+", "-", task_stream.lower()).strip("-")[:32].strip("-")
    return f"{named or 'tasks'}-{hashlib.sha256(task_stream.encode()).hexdigest()[:8]}"


def keys_of(task_stream: str) -> names.CrewKeys:
    """The keys of that crew."""
    return names.CrewKeys(NAMESPACE, crew_name(task_stream))


def full_name(crew: str) -> str:
    """The NAMESPACE/NAME of a crew that a task names, by NAME or by both."""
    return crew if "/" in crew else f"{NAMESPACE}/{crew}"


def definition(task_stream: str, **options: Any) -> CrewDefinition:
    """The definition of that crew, which has an agent of any name."""
    agents = [AgentDefinition(agent_id=names.ANY_AGENT, agent_class=BOTS)]
    about = f"Tasks for the bots of an AgentService, from {task_stream}"
    return CrewDefinition(name=crew_name(task_stream), description=about, agents=agents, **options)
