"""The address of a definition: which parts of it count."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from test_records import SEED, definition
from watchbill.records import CrewDefinition

pytestmark = pytest.mark.pure


def test_equal_content_has_one_address_whatever_its_identity_times_and_metadata() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    other = definition(crew_id="another", metadata={"x": 1}, created_at=moment, updated_at=moment)
    assert other.digest() == definition().digest()
    assert len(other.digest()) == 16


@pytest.mark.parametrize(
    "change",
    [
        {"execution_mode": "parallel"},
        {"agents": [{"agent_id": "b"}, {"agent_id": "a"}]},
        {"agents": [{"agent_id": "a", "prompt": "x"}, {"agent_id": "b"}]},
        {"shared_tools": ["x"]},
        {"max_parallel_tasks": 2},
        {"model": "m"},
        {"tasks": {"timeout_seconds": 1}},
        {"delivery": [{"name": "ops", "log": {}}]},
        {"on_error": "Continue"},
        {"loop": {"maxIterations": 2}},
        {"synthesis": {"model": "m"}},
        {"agents": [{"agent_id": "a", "when": {"step": "b", "exists": True}}, {"agent_id": "b"}]},
        {"agents": [{"agent_id": "a", "for_each": "{inputs.x}"}, {"agent_id": "b"}]},
    ],
)
def test_whatever_a_run_depends_on_changes_the_address(change: dict[str, Any]) -> None:
    assert definition(**change).digest() != definition().digest()


def test_the_address_survives_storing() -> None:
    crew = CrewDefinition.model_validate(SEED)
    assert CrewDefinition.model_validate_json(crew.model_dump_json()).digest() == crew.digest()
    assert CrewDefinition.model_validate_json(crew.content()).digest() == crew.digest()
