"""A service that runs bots, outside of any web request, on Watchbill's queue, workers and heartbeats.

    service = AgentService(AgentServiceConfig(redis_url="redis://localhost:6379"), bot_manager)
    await service.start()

    async with AgentServiceClient("redis://localhost:6379") as client:
        result = await client.submit_and_wait(AgentTask(agent_name="MyAgent", prompt="Hello!"), timeout=30)

Light to import: what runs agents is imported when `AgentService` or `start_agent_service` is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from watchbill.errors import AgentNotFound
from watchbill.services.bots import Bot, BotManager, FindsBots
from watchbill.services.client import AgentServiceClient
from watchbill.services.config import AgentServiceConfig, HeartbeatConfig
from watchbill.services.delivery import DeliveryChannel, DeliveryConfig
from watchbill.services.tasks import AgentTask, TaskPriority, TaskResult, TaskStatus

if TYPE_CHECKING:
    from watchbill.services.service import AgentService, start_agent_service

__all__ = [
    "AgentNotFound",
    "AgentService",
    "AgentServiceClient",
    "AgentServiceConfig",
    "AgentTask",
    "Bot",
    "BotManager",
    "DeliveryChannel",
    "DeliveryConfig",
    "FindsBots",
    "HeartbeatConfig",
    "TaskPriority",
    "TaskResult",
    "TaskStatus",
    "start_agent_service",
]


def __getattr__(name: str) -> Any:
    if name in ("AgentService", "start_agent_service"):
        from watchbill.services import service

        return getattr(service, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
