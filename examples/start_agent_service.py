"""Runs a service with one bot until Ctrl-C. WATCHBILL_REDIS_URL says where the store is (default: localhost:6379)."""

from __future__ import annotations

import asyncio
import logging

from watchbill.services import AgentServiceConfig, BotManager, HeartbeatConfig, start_agent_service


class Echo:
    """Answers with its prompt."""

    name = "Echo"

    async def ask(self, prompt: str, user_id: str | None = None) -> str:
        return f"{user_id or 'you'} said: {prompt}"


async def main() -> None:
    bots = BotManager()
    bots.add_bot(Echo())
    config = AgentServiceConfig(
        heartbeats=[HeartbeatConfig(agent_name="Echo", interval_seconds=300, prompt_template="Still here at {now}.")],
    )
    await start_agent_service(config, bots)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
