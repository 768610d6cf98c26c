"""Helpers of the tests of the client."""

from __future__ import annotations

from typing import Any

from support import library

from watchbill.records import TaskPolicy
from watchbill.tasks import AgentTask


def small_queue(most: int, *agents: str) -> Any:
    return library(*agents, tasks=TaskPolicy(max_queued=most, result_ttl_seconds=77))


def tasks_named(task_id: str, agent: str = "a") -> AgentTask:
    return AgentTask(task_id=task_id, agent_name=agent, prompt="x")
