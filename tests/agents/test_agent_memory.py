"""What an agent of one's own remembers, by `watchbill.agents.memory`, in a test of one's own."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from watchbill import testing
from watchbill.agents import memory
from watchbill.agents.memory import HistoryConfig, Turn
from watchbill.errors import InvalidInput
from watchbill.tasks import AgentTask

TURNS = [("one", "1" * 40), ("two", "2"), ("three", "3")]


@pytest.mark.parametrize(
    ("config", "known"),
    [({}, ["one", "two", "three"]), ({"turns": 2}, ["two", "three"]), ({"tokens": 10}, ["two", "three"])],
)
async def test_the_last_turns_within_the_bounds_are_remembered_in_all_attempts(
    config: dict[str, Any], known: list[str]
) -> None:
    context = testing.context("four", session_id="s", turns=TURNS)
    before = await memory.recall(context, HistoryConfig(**config))
    assert [turn.prompt for turn in before] == known
    await memory.remember(context, "four", {"is": 4}, HistoryConfig())
    assert context.turns == [*TURNS, Turn("four", '{"is":4}')]
    again = testing.context("four", session_id="s", turns=context.turns, stored=context.stored, attempt=2)
    assert await memory.recall(again, HistoryConfig(**config)) == before


async def test_a_task_without_a_session_has_nothing_to_remember() -> None:
    context = testing.context("four", turns=TURNS)
    assert await memory.recall(context, HistoryConfig()) == []
    await memory.remember(context, "four", "4", HistoryConfig())
    assert context.turns == TURNS


@pytest.mark.parametrize("named", [7, "a/b", ""])
async def test_what_names_no_task_to_follow_is_refused(named: Any) -> None:
    context = testing.context(session_id="s")
    context.task = AgentTask(task_id="t", agent_name="a", prompt="", session_id="s", metadata={"follows": named})
    with pytest.raises(InvalidInput, match=r"metadata\.follows: .* is no id of a task"):
        await memory.recall(context, HistoryConfig())


@pytest.mark.parametrize("wrong", [{"turns": 0}, {"turns": 1001}, {"tokens": 0}, {"days": 0.0}, {"weeks": 1}])
def test_bounds_of_a_history_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HistoryConfig(**wrong)
