"""What the entries of steps may carry of the steps before, against what was worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from test_flow_modes import LOOP, crew, each

from watchbill.plan import flow, given
from watchbill.records import CrewDefinition

pytestmark = pytest.mark.pure

DIAMOND = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]


def read(definition: CrewDefinition) -> dict[str, tuple[str, ...]]:
    return {step.name: step.reads for step in given.steps(definition) if step.reads}


def flow_of(edges: list[tuple[str, str]], *agents: dict[str, Any] | str) -> CrewDefinition:
    relations = [{"source": source, "target": target} for source, target in edges]
    return crew("flow", *agents, flow_relations=relations)


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        (crew("sequential", "a", "b", "c"), {"b": ("a",), "c": ("a", "b")}),
        (crew("parallel", "a", "b"), {}),
        (flow_of(DIAMOND, *"abcd"), {"b": ("a",), "c": ("a",), "d": ("b", "c")}),
        (flow_of(DIAMOND[::-1], *"abcd"), {"b": ("a",), "c": ("a",), "d": ("b", "c")}),
        (
            flow_of(DIAMOND, *"abc", {"agent_id": "d", "prompt": "{steps.a} {steps.c}"}),
            {"b": ("a",), "c": ("a",), "d": ("a", "b", "c")},
        ),
        (
            flow_of(DIAMOND, *"abc", {"agent_id": "d", "when": {"step": "a", "eq": "1"}}),
            {"b": ("a",), "c": ("a",), "d": ("b", "c", "a")},
        ),
        (crew("sequential", "a", each("b", "{steps.a.found}"), "c"), {"b@each": ("a",), "c": ("a", "b")}),
        (crew("sequential", each("a", "{inputs.list}"), "b"), {"b": ("a",)}),
        (crew("loop", "a", "b", loop=LOOP), {"b@1": ("a@1",), "until@1": ("a@1", "b@1")}),
        (crew("parallel", "a", "b", synthesis={"model": "m"}), {}),
    ],
)
def test_a_step_reads_what_its_agent_is_given_and_what_its_condition_is_about(
    definition: CrewDefinition, expected: dict[str, tuple[str, ...]]
) -> None:
    assert read(definition) == expected


def test_what_reads_too_much_is_left_out() -> None:
    names = [f"a{number}" for number in range(40)]
    assert list(read(crew("sequential", *names))) == names[1 : given.CARRIED_MOST + 1]
    for number, expected in ((given.CARRIED_MOST, {"z": tuple(names[: given.CARRIED_MOST])}), (17, {})):
        assert read(flow_of([(name, "z") for name in names[:number]], *names[:number], "z")) == expected


@drawn(st.data())
def test_what_a_step_reads_has_ended_before_it_begins(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 12))
    names = [f"a{number}" for number in range(size)]
    edges = [
        (names[source], names[target])
        for target in range(1, size)
        for source in data.draw(st.sets(st.integers(0, target - 1), max_size=3))
    ]
    planned = given.steps(flow_of(edges, *names))
    before = flow.ancestors(planned)
    assert all(set(step.reads) == set(step.after) <= before[step.name] for step in planned)
