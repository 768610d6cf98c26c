"""Can a crew or a heartbeat that somebody declares be stored? Asked by every way into a store, before anything is
stored. Pure."""

from __future__ import annotations

from watchbill import api
from watchbill.api import Crew, Heartbeat
from watchbill.errors import InvalidInput, Problem
from watchbill.plan import deliveries, prompts, submission, watches
from watchbill.plan import heartbeat as beat
from watchbill.records import CrewDefinition, from_crew


def problems(crew: CrewDefinition) -> list[Problem]:
    """The problems that its fields don't have by themselves: of prompts and watches, which cite each other and more."""
    return [*prompts.check(crew), *watches.check(crew)]


def definition(crew: Crew) -> CrewDefinition:
    """The definition to store for a crew. Raises InvalidInput with its problems."""
    made = from_crew(crew)
    if found := problems(made):
        raise InvalidInput(found)
    return made


def misfits(heartbeat: Heartbeat, crew: CrewDefinition | None) -> list[Problem]:
    """The problems of a heartbeat that can't ever fire, whose crew is not there (None), or can't do its work."""
    found = api.check(heartbeat)
    spec = heartbeat.spec
    if crew is None:
        reason = f"crew {spec.crew_ref.name!r} is in none of the files"
        return [*found, Problem(reason, "Give its file too, or mend the name.", path="spec.crewRef.name")]
    for check in (
        lambda: submission.check(crew, spec.prompt, agent=spec.agent, role=spec.role, inputs=spec.inputs),
        lambda: deliveries.chosen(crew, spec.deliver),
    ):
        try:
            check()
        except InvalidInput as error:
            found += [beat.problem(problem) for problem in error.problems]
    return found
