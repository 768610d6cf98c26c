"""Crews whose queue could never take a run of them are refused where they are declared."""

from __future__ import annotations

from typing import Any

import pytest

from watchbill.api import Crew
from watchbill.errors import InvalidInput
from watchbill.plan import declared


def crew(number: int, most: int, **spec: Any) -> Crew:
    agents: list[dict[str, Any]] = [{"name": f"a{i}", "class": "EchoAgent"} for i in range(number)]
    agents[-1].update(spec.pop("last", {}))
    whole = {"agents": agents, "tasks": {"maxQueued": most}, **spec}
    return Crew.model_validate({"metadata": {"name": "c"}, "spec": whole})


@pytest.mark.parametrize(
    ("number", "spec", "steps"),
    [
        (3, {}, 3),
        (3, {"executionMode": "parallel"}, 3),
        (2, {"last": {"forEach": "{inputs.list}"}}, 3),  # its items come later
        (2, {"synthesis": {"class": "EchoAgent"}}, 3),
        (2, {"executionMode": "loop", "loop": {"maxIterations": 9}}, 3),  # the others come later
        (4, {"executionMode": "hierarchical", "hierarchy": {"manager": "a0"}}, 1),  # it may ask nobody
    ],
)
def test_a_queue_has_room_for_all_steps_with_which_a_run_begins(number: int, spec: dict[str, Any], steps: int) -> None:
    assert declared.definition(crew(number, steps, **spec)).tasks.max_queued == steps
    if steps > 1:
        with pytest.raises(InvalidInput) as caught:
            declared.definition(crew(number, steps - 1, **spec))
        (problem,) = caught.value.problems
        assert problem.path == "spec.tasks.maxQueued"
        assert f"is {steps - 1}, and a run of this crew begins with {steps} steps" in problem.reason
        assert problem.fix == f"Raise it to {steps} or more."
