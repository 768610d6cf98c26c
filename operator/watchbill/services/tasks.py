"""Tasks, results and their states by the names that a service gives them. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pydantic import Field

from watchbill import tasks
from watchbill.services.delivery import DeliveryConfig
from watchbill.services.known import Known
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


class TaskStatus(StrEnum):
    """The state of a task, less finely than `watchbill.tasks.TaskState`."""

    PENDING = "pending"
    """It waits for a time, another attempt, a worker that can run it, or somebody who resumes it."""
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
    TaskState.COMPLETED: TaskStatus.COMPLETED,
    TaskState.FAILED: TaskStatus.FAILED,
    TaskState.DEAD: TaskStatus.FAILED,
    TaskState.CANCELLED: TaskStatus.CANCELLED,
    TaskState.SKIPPED: TaskStatus.CANCELLED,
}
