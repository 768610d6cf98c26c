"""Limits of agents and models in a Crew's spec: what is taken, and how what is wrong is told."""

from __future__ import annotations

from typing import Any

import pytest
from reading import CREW, only, read

from watchbill.plan import limits
from watchbill.records import CrewDefinition, from_crew, to_crew

pytestmark = pytest.mark.pure

AGENT = "  agents:\n    - {name: writer, class: EchoAgent, %s}\n"


def limited(text: str = "maxConcurrent: 2", more: str = "") -> str:
    head, _, _ = CREW.partition("  agents:\n")
    return head + AGENT % text + more


def test_limits_are_kept_by_the_crews_record_and_packed_for_the_store() -> None:
    text = limited(
        "maxConcurrent: 2, rateLimit: {requests: 7, periodSeconds: 2, burst: 3}",
        "  modelLimits: [{model: m, requests: 3, tokens: 60}]\n",
    )
    (crew,) = read(text).crews
    definition = CrewDefinition.model_validate_json(from_crew(crew).model_dump_json(), extra="ignore")
    assert to_crew(definition, "default").spec.agents[0].rate_limit == crew.spec.agents[0].rate_limit
    assert to_crew(definition, "default").spec.model_limits == crew.spec.model_limits
    assert limits.pack(definition.agents) == "writer\x1f2\x1f285715\x1f3", "never more than seven in two seconds"
    rate = limits.of_model(definition.model_limits, "m")
    assert rate is not None
    assert (rate.every_us, rate.token_us, rate.said) == (20_000_000, 1_000_000, "3 requests and 60 tokens in 60 s")
    assert limits.of_model(definition.model_limits, "n") is None
    assert limits.pack(from_crew(read(CREW).crews[0]).agents) == ""


def test_a_crew_of_limited_agents_alone_has_a_bound_of_its_tasks() -> None:
    limit = limits.at_once
    assert limit(read(limited("maxConcurrent: 2")).crews[0].spec) == 2
    another = "    - {name: other, class: EchoAgent, maxConcurrent: 5}\n"
    assert limit(read(limited(more=another)).crews[0].spec) == 7
    assert limit(read(limited(more=another.replace("maxConcurrent: 5", "timeoutSeconds: 5"))).crews[0].spec) is None
    assert limit(read(limited(more="  synthesis: {class: EchoAgent}\n")).crews[0].spec) is None


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        (limited("maxConcurrent: 0"), "spec.agents[0].maxConcurrent", "0"),
        (limited("rateLimit: {}"), "spec.agents[0].rateLimit.requests", "missing"),
        (limited("rateLimit: {requests: 1, burst: 0}"), "spec.agents[0].rateLimit.burst", "0"),
        (limited(more="  modelLimits: [{model: m}]\n"), "spec.modelLimits[0]", "neither requests nor tokens is given"),
        (
            limited(more="  modelLimits: [{model: m, tokens: 1, burst: 2}]\n"),
            "spec.modelLimits[0].burst",
            "burst means something with requests only",
        ),
        (
            limited(more="  modelLimits: [{model: m, tokens: 1}, {model: m, requests: 1}]\n"),
            "spec.modelLimits[1].model",
            "'m' stands twice: modelLimits[0] and modelLimits[1]",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_field(text: str, path: str, reason: str) -> None:
    found: Any = only(text)
    assert found.path == path
    assert reason in found.reason
    assert found.fix
