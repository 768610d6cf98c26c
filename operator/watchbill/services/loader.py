"""Loads the agents of a service's crew: each is the bot of its name, which is looked up when a task of it runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from watchbill.agents.context import Context
from watchbill.agents.loading import AgentLoader, Runner
from watchbill.agents.tools import Tool
from watchbill.errors import AgentNotFound, Problem
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.services import bots
from watchbill.services.bots import FindsBots
from watchbill.worker.execution.threads import run_in_thread


class BotLoader(AgentLoader):
    """Loads bots. Any name can be loaded: whether a bot has it is known when its task runs."""

    def __init__(self, manager: FindsBots) -> None:
        super().__init__()
        self._manager = manager

    def check(self, crew: CrewDefinition) -> list[Problem]:
        return []

    def ready(self, crew: CrewDefinition, agents: Iterable[str] | None = None) -> list[Problem]:
        return []

    def load(self, crew: CrewDefinition, agent: AgentDefinition) -> Runner:
        return Runner(True, agent, self._ask)

    def tools(self, crew: CrewDefinition, agent: AgentDefinition, place: str = "") -> dict[str, Tool]:
        return {}

    async def _ask(self, context: Context) -> Any:
        name, task = context.agent.agent_id, context.task
        found = self._manager.get_bot(name)
        bot = await found if inspect.isawaitable(found) else found
        if bot is None:
            raise AgentNotFound(f"Agent {name!r} not found in BotManager")
        method = bots.method_of(bot, name, task.method_name)
        labels = {"user_id": task.user_id, "session_id": task.session_id}
        given = {label: value for label, value in labels.items() if value is not None}
        options = bots.options(method, given, {"context": context})
        if inspect.iscoroutinefunction(method):
            return bots.answer_of(await method(context.prompt, **options))
        answer = await run_in_thread(lambda: method(context.prompt, **options))
        return bots.answer_of(await answer if inspect.isawaitable(answer) else answer)
