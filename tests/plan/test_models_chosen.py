"""What `--model` makes of a crew."""

from __future__ import annotations

import pytest

from watchbill.api import Crew
from watchbill.plan.models import with_model

pytestmark = pytest.mark.pure


def test_whatever_has_a_system_prompt_gets_the_model() -> None:
    agents = [
        {"name": "a", "class": "EchoAgent", "systemPrompt": "You write."},
        {"name": "b", "class": "m:B", "model": "x"},
    ]
    synthesis = {"class": "EchoAgent", "config": {"y": 1}, "systemPrompt": "You sum up."}
    spec = {"agents": agents, "synthesis": synthesis}
    changed = with_model(Crew.model_validate({"metadata": {"name": "c"}, "spec": spec}), "openai:m").spec
    assert changed.synthesis is not None
    found = [(one.agent_class, one.model, one.config) for one in changed.agents]
    assert (changed.model, found) == ("openai:m", [("LLMAgent", "", {}), ("m:B", "x", {})])
    last = changed.synthesis
    assert (last.agent_class, last.model, last.config) == ("LLMAgent", "", {})
    plain = {"agents": agents, "synthesis": {"class": "m:S"}}
    unchanged = with_model(Crew.model_validate({"metadata": {"name": "c"}, "spec": plain}), "openai:m").spec.synthesis
    assert unchanged is not None
    assert unchanged.agent_class == "m:S"
