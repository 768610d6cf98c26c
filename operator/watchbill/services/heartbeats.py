"""A service's heartbeats as the scheduler knows them. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, MutableMapping
from dataclasses import replace
from typing import Any

from pydantic import Field

from watchbill.api import CrewRef, Heartbeat, HeartbeatSpec, ObjectMeta, check
from watchbill.api.delivery import Destination
from watchbill.api.heartbeat import METADATA_MAX_ENTRIES
from watchbill.errors import InvalidInput
from watchbill.plan import submission
from watchbill.services.config import AgentServiceConfig, HeartbeatConfig, crew_name


class _Spec(HeartbeatSpec):
    """The work of a service's heartbeat: for an agent of any name, with any JSON as metadata."""

    agent: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict, max_length=METADATA_MAX_ENTRIES)


def resources(config: AgentServiceConfig, kept: MutableMapping[str, str]) -> Iterator[Heartbeat]:
    """The enabled heartbeats. Equal ones have equal names in every service that has them, which so fire each once.

    `kept` gets the secrets of their deliveries. Raises ValueError, or InvalidInput, which is one, for what can't be a
    heartbeat.
    """
    crew = crew_name(config.task_stream)
    enabled = [beat for beat in config.heartbeats if beat.enabled]
    for i, beat in enumerate(enabled):
        made = _resource(beat, crew, enabled[:i].count(beat), beat.delivery.destinations(kept, config.streams))
        problems = [replace(found, source=f"heartbeats[{config.heartbeats.index(beat)}]") for found in check(made)]
        if problems:
            raise InvalidInput(problems)
        submission.check(
            config.crew(), beat.prompt_template, agent=beat.agent_name, inputs={}, metadata=made.spec.metadata
        )
        yield made


def _resource(beat: HeartbeatConfig, crew: str, number: int, delivery: list[Destination]) -> Heartbeat:
    named = re.sub(r"[^a-z0-9]+", "-", beat.agent_name.lower()).strip("-")[:32].strip("-")
    spec = _Spec.model_validate(
        {
            "crewRef": CrewRef(name=crew),
            "agent": beat.agent_name,
            "schedule": beat.cron_expression,
            "intervalSeconds": beat.interval_seconds,
            "timeZone": beat.time_zone,
            "prompt": beat.prompt_template,
            "metadata": beat.metadata,
            "delivery": delivery,
        }
    )
    digest = hashlib.sha256(f"{spec.model_dump_json(exclude_defaults=True)}{number or ''}".encode()).hexdigest()[:12]
    return Heartbeat(metadata=ObjectMeta(name=f"{named or 'agent'}-{digest}"), spec=spec)
