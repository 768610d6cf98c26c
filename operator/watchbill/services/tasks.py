"""Tasks, results and their states by the names that a service gives them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Final

from pydantic import Field, ValidationError

from watchbill import tasks
from watchbill.client.arguments import naming
from watchbill.errors import InvalidInput, Problem
from watchbill.services.delivery import DeliveryConfig
from watchbill.services.known import Known, problems
from watchbill.tasks import Priority, TaskResult, TaskState

__all__ = ["AgentTask", "TaskPriority", "TaskResult", "TaskStatus"]

TaskPriority = Priority


class AgentTask(Known, tasks.AgentTask):
    """A task for a bot, and where its result goes besides the stream of results."""

    delivery: DeliveryConfig = Field(default_factory=DeliveryConfig)

    def stored(self) -> tasks.AgentTask:
        """The task as the queue keeps it, without the delivery."""
        return tasks.AgentTask.model_construct(
            self.model_fields_set - {"delivery"}, **{name: getattr(self, name) for name in tasks.AgentTask.model_fields}
        )


def task_of(given: object) -> AgentTask:
    """Returns the task, which may be given as a mapping of its fields. Raises InvalidInput, which names each field that
    is wrong."""
    if isinstance(given, AgentTask):
        return given
    if not isinstance(given, Mapping):
        fix = "Give an AgentTask, or its fields as a dict."
        raise InvalidInput(Problem(f"a {type(given).__name__} is no task", fix, path="task"))
    try:
        return AgentTask.model_validate(dict(given))
    except ValidationError as error:
        raise InvalidInput(problems(error)) from None


def tasks_of(given: object) -> Iterator[AgentTask]:
    """Yields the tasks, as `task_of` does. Raises InvalidInput."""
    if isinstance(given, str | Mapping | AgentTask) or not isinstance(given, Iterable):
        reason, fix = f"a {type(given).__name__} is no list of tasks", "Give a list of AgentTasks."
        raise InvalidInput(Problem(reason, fix, path="tasks"))
    for i, one in enumerate(given):
        with naming(i):
            task = task_of(one)
        yield task


class TaskStatus(StrEnum):
    """The state of a task, less finely than `watchbill.tasks.TaskState`."""

    PENDING = "pending"
    """It waits for a time, another attempt, a worker that can run it, or somebody who resumes or approves it."""
    QUEUED = "queued"
    """It waits for a free slot."""
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    """Its attempts are used up, or another would be of no use."""
    CANCELLED = "cancelled"

    @classmethod
    def of(cls, state: TaskState) -> TaskStatus:
        """The status that stands for a state."""
        return _STATUS[state]


_STATUS: Final = {
    TaskState.WAITING: TaskStatus.QUEUED,
    TaskState.RUNNING: TaskStatus.RUNNING,
    TaskState.CANCELLING: TaskStatus.RUNNING,
    TaskState.PARKED: TaskStatus.PENDING,
    TaskState.DELAYED: TaskStatus.PENDING,
    TaskState.INTERRUPTED: TaskStatus.PENDING,
    TaskState.APPROVAL: TaskStatus.PENDING,
    TaskState.COMPLETED: TaskStatus.COMPLETED,
    TaskState.FAILED: TaskStatus.FAILED,
    TaskState.DEAD: TaskStatus.FAILED,
    TaskState.CANCELLED: TaskStatus.CANCELLED,
    TaskState.SKIPPED: TaskStatus.CANCELLED,
}
