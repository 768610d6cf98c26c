"""The Heartbeat: work that a crew is given again and again, by the clock. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from watchbill.api.conditions import NO_STATUS, Condition
from watchbill.api.delivery import DESTINATIONS_MAX, Destination, repeated, secret_sources
from watchbill.api.meta import (
    AGENT_NAME_HINT,
    API_VERSION,
    NAME_RULE,
    PROMPT_MAX_BYTES,
    SET,
    TEXT_MAX,
    ZONE_HINT,
    ZONE_MAX,
    ZONE_PATTERN,
    ZONE_RULE,
    AgentName,
    InputTexts,
    ObjectMeta,
    Prompt,
    ResourceName,
    ResourceNames,
    RoleName,
    Strict,
    by_key,
    bytes_rule,
    misnamed,
)
from watchbill.api.problems import Finding, Hint, raise_findings

METADATA_MAX_ENTRIES: Final = 62
"""tasks.METADATA_MAX_ENTRIES, which this layer can't see, less the two that firing adds; a test holds them together."""
UTC: Final = "UTC"
CRON_MACROS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""Names of cron expressions, as a Kubernetes CronJob has them."""

_UNMOUNTED: Final = "a heartbeat's own destination can't use a Secret's key, which only the crew's workers have mounted"
_NAME_IT: Final = "Put the destination into the crew's spec.delivery, and name it in deliver; or use env:NAME"
_TWICE: Final = "deliver names a destination that delivery has, too"
_NO_SECRETS: Final = " && ".join(
    f"(!has(d.{channel}) || !({' || '.join(f'has(d.{channel}.{field})' for field in fields)}))"
    for channel, fields in secret_sources().items()
)


class CrewRef(Strict):
    """A reference to a crew in the heartbeat's namespace."""

    name: ResourceName = Field(description="The crew's metadata.name.")


class HeartbeatSpec(Strict):
    """The times at which the heartbeat fires, and the work that it submits."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "!has(self.schedule) || !has(self.intervalSeconds)",
                    "message": "schedule and intervalSeconds are both given. Remove one of the two",
                    "fieldPath": ".intervalSeconds",
                },
                {
                    "rule": "has(self.schedule) || has(self.intervalSeconds)",
                    "message": "neither schedule nor intervalSeconds is given, so it would never fire. Add one",
                    "fieldPath": ".schedule",
                },
                {
                    "rule": f"has(self.schedule) || self.timeZone == '{UTC}'",
                    "message": "timeZone means something with schedule only. Remove it, or use schedule",
                    "fieldPath": ".timeZone",
                },
                {
                    "rule": "!has(self.intervalSeconds) || self.jitterSeconds <= self.intervalSeconds",
                    "message": "jitterSeconds is longer than intervalSeconds. Lower it",
                    "fieldPath": ".jitterSeconds",
                },
                {
                    "rule": "!has(self.agent) || !has(self.role)",
                    "message": "agent and role are both given. Remove one of the two",
                    "fieldPath": ".role",
                },
                bytes_rule("prompt", PROMPT_MAX_BYTES),
                {
                    "rule": "!has(self.delivery) || self.delivery.all(d, " + _NO_SECRETS + ")",
                    "message": f"{_UNMOUNTED}. {_NAME_IT}",
                    "fieldPath": ".delivery",
                },
                {
                    "rule": "!has(self.deliver) || !has(self.delivery) "
                    "|| self.deliver.all(n, !self.delivery.exists(d, d.name == n))",
                    "message": f"{_TWICE}. Remove one of the two",
                    "fieldPath": ".deliver",
                },
            ]
        }
    )

    crew_ref: CrewRef = Field(description="The crew that does the work: {name: …}.")
    agent: Annotated[AgentName | None, AGENT_NAME_HINT] = Field(
        default=None, description="The agent that does it. Omitted: the whole crew runs."
    )
    role: Annotated[RoleName | None, AGENT_NAME_HINT] = Field(
        default=None, description="The role of which any agent that has room does it, in place of one agent."
    )
    schedule: Annotated[str | None, Hint("Write five fields, as in '0 9 * * 1-5'.")] = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="When it fires, as a cron expression of five fields: minute, hour, day of month, month, day of "
        "week (0 and 7 are Sunday). Or @hourly, @daily, @weekly, @monthly or @yearly. Exactly one of schedule and "
        "intervalSeconds.",
    )
    interval_seconds: int | None = Field(
        default=None,
        ge=1,
        le=31_622_400,
        description="Seconds from one firing to the next. Exactly one of schedule and intervalSeconds.",
    )
    time_zone: Annotated[str, ZONE_HINT] = Field(
        default=UTC,
        max_length=ZONE_MAX,
        pattern=ZONE_PATTERN,
        description="The time zone that schedule is read in, as in Europe/Berlin.",
        json_schema_extra=ZONE_RULE,
    )
    jitter_seconds: int = Field(
        default=0,
        ge=0,
        le=3600,
        description="The heartbeat is fired later than its slots by a time of at most so many seconds. The time is the "
        "same for all of its slots, and another one for each heartbeat, so that many heartbeats don't fire at once.",
    )
    starting_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=31_622_400,
        description="Seconds after which a slot is too late to be fired, whatever delayed it. Omitted: with missed: "
        "Skip, 30 for a slot that was found too late, and the time to the next slot for one that was found in time; "
        "else none.",
    )
    missed: Literal["Skip", "Once", "All"] = Field(
        default="Skip",
        description="Slots that passed while nothing could fire them, and that are not too late. Skip and Once: the "
        "newest is fired. All: the newest 100 are fired, oldest first. The crew's feed says how many were left out. "
        "Once and All know no lateness without startingDeadlineSeconds.",
    )
    concurrency_policy: Literal["Allow", "Forbid", "Replace"] = Field(
        default="Allow",
        description="Whether it is fired while what it fired last has not ended. Allow: yes. Forbid: the slot is "
        "missed. Replace: yes, and what has not ended is cancelled.",
    )
    successful_runs_history_limit: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Tasks or runs of this heartbeat that were completed and whose records and results are kept. Older "
        "ones go when it fires. Omitted: the crew's tasks.maxResults and tasks.resultTTLSeconds decide, which hold in "
        "any case.",
    )
    failed_runs_history_limit: int | None = Field(
        default=None,
        ge=0,
        le=100,
        description="The same, of those that ended otherwise.",
    )
    prompt: Prompt = Field(
        default="",
        description="What is asked each time. {slot} stands for the time at which it was to fire, {now} for the time "
        "at which it did, both in timeZone.",
    )
    inputs: InputTexts = Field(
        default_factory=dict,
        description="Texts by name, as a submission gives them. {slot} and {now} as in prompt.",
    )
    priority: Literal["CRITICAL", "HIGH", "NORMAL", "LOW", "BACKGROUND"] = Field(
        default="LOW", description="How urgent it is; more urgent work starts first."
    )
    suspend: bool = Field(default=False, description="While true, it doesn't fire, and what was missed is not made up.")
    metadata: dict[str, Annotated[str, Field(max_length=TEXT_MAX)]] = Field(
        default_factory=dict, max_length=METADATA_MAX_ENTRIES, description="Passed on to each task, as it is."
    )
    deliver: ResourceNames | None = Field(
        default=None,
        max_length=DESTINATIONS_MAX,
        description="Names of destinations of the crew that results are sent to. Omitted, without delivery: all of the "
        "crew's; an empty list: none.",
        json_schema_extra=SET,
    )
    delivery: list[Destination] = Field(
        default_factory=list,
        max_length=DESTINATIONS_MAX,
        description="Destinations of its own, which the crew doesn't have. They can't use keys of Secrets.",
        json_schema_extra=by_key("name"),
    )

    @model_validator(mode="after")
    def _sound(self) -> HeartbeatSpec:
        raise_findings(type(self), self._broken_rules())
        return self

    def _broken_rules(self) -> Iterator[Finding]:
        if self.schedule is not None and self.interval_seconds is not None:
            reason = "schedule and intervalSeconds are both given"
            yield Finding(("intervalSeconds",), reason, "Remove one of the two.")
        if self.schedule is None and self.interval_seconds is None:
            reason = "neither schedule nor intervalSeconds is given, so it would never fire"
            fix = "Add schedule (as in '0 9 * * 1-5') or intervalSeconds."
            yield Finding(("schedule",), reason, fix)
        if self.schedule is None and self.time_zone != UTC:
            reason = "timeZone means nothing without schedule"
            yield Finding(("timeZone",), reason, "Remove it, or use schedule instead of intervalSeconds.")
        if self.interval_seconds is not None and self.jitter_seconds > self.interval_seconds:
            yield Finding(("jitterSeconds",), "jitterSeconds is longer than intervalSeconds", "Lower it.")
        if self.agent is not None and self.role is not None:
            yield Finding(("role",), "agent and role are both given", "Remove one of the two.")
        for i, destination in enumerate(self.delivery):
            if destination.secret_keys():
                yield Finding(("delivery", i), _UNMOUNTED, f"{_NAME_IT}.")
        for found in repeated(self.delivery):
            yield found._replace(loc=("delivery", *found.loc))
        named = [name for name in self.deliver or () if name in {destination.name for destination in self.delivery}]
        if named:
            yield Finding(("deliver",), f"{_TWICE}: {named[0]!r}", "Remove one of the two.")
        yield from misnamed(self.inputs)


class HeartbeatStatus(Strict):
    """The last observed state of the heartbeat. Written by the operator."""

    observed_generation: int = Field(default=-1, description="The metadata.generation that this status is about.")
    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=16,
        description="Observations: Ready sums up.",
        json_schema_extra=by_key("type"),
    )
    last_fire_time: datetime | None = Field(
        default=None, description="The slot that it last fired, or when somebody had it fired beside its schedule."
    )
    next_fire_time: datetime | None = Field(default=None, description="Its next slot. jitterSeconds come on top.")
    last_slot: datetime | None = Field(
        default=None,
        description="The newest slot that was fired. A store that has lost its last writes doesn't fire it again.",
    )
    last_work: str | None = Field(default=None, description="The id of the task or run that it fired last.")
    last_result: str | None = Field(
        default=None,
        description="How that stands: waiting, running, and so on; once it has ended, completed, partial, failed, dead "
        "or cancelled. Written a minute late, at most.",
    )
    missed_slots: int | None = Field(
        default=None, description="Slots missed since it came into being; beyond 100 in a row they are not counted."
    )
    last_handled_run_now: str | None = Field(
        default=None, description="The last value of the annotation watchbill.dev/run-now that was handled."
    )
    run_now_message: str | None = Field(default=None, description="What became of that.")


class Heartbeat(Strict):
    """Work for a crew, by the clock."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [NAME_RULE]})

    api_version: Literal["watchbill.dev/v1alpha1"] = Field(default=API_VERSION, description="The API's version.")
    kind: Literal["Heartbeat"] = Field(default="Heartbeat", description="Heartbeat.")
    metadata: ObjectMeta = Field(description="Name and labels.")
    spec: HeartbeatSpec = Field(description="When it fires, and what it asks.")
    status: HeartbeatStatus | None = Field(
        default=None, description="What was last seen of it. Written by the operator.", json_schema_extra=NO_STATUS
    )

    @property
    def name(self) -> str:
        return self.metadata.name
