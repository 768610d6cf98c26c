"""The status of a Crew. Pure."""

from __future__ import annotations

from pydantic import Field

from watchbill.api.conditions import Condition
from watchbill.api.meta import TEXT_MAX, Strict, by_key
from watchbill.api.workers import Held


class CrewStatus(Strict):
    """The last observed state of the crew. The operator writes it."""

    observed_generation: int = Field(default=-1, description="The metadata.generation that this status is about.")
    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=16,
        description="Conditions of the crew; Ready sums them up.",
        json_schema_extra=by_key("type"),
    )
    replicas: int | None = Field(default=None, ge=0, description="Number of existing workers.")
    selector: str = Field(default="", max_length=TEXT_MAX, description="Label selector of the workers' pods.")
    template_version: int | None = Field(
        default=None, ge=1, description="Version of the operator's template that the workers' pods are made from."
    )
    waiting: int | None = Field(
        default=None, ge=0, description="Tasks that wait for a worker, as of the last write; absent while unknown."
    )
    running: int | None = Field(
        default=None, ge=0, description="Tasks that run, as of the last write; absent while unknown."
    )
    agents: int | None = Field(default=None, ge=0, description="Number of agents.")
    delayed: int | None = Field(default=None, ge=0, description="Tasks for a later time, or between two attempts.")
    dead: int | None = Field(default=None, ge=0, description="Dead letters of tasks.")
    revision: str = Field(
        default="", max_length=63, description="Revision of the template of the workers that new work starts."
    )
    scaling: Held | None = Field(default=None, description="Absent where there are as many workers as are wanted.")
