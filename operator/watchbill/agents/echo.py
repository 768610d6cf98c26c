"""`EchoAgent` returns its prompt. It serves to try crews, queues and scaling without a model."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel, ConfigDict, Field

from watchbill.agents.context import Context


class EchoConfig(BaseModel):
    """Fields of the agent's `config`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    delay_seconds: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="How long to pretend to work.")


class EchoAgent:
    """Returns the prompt, after `delay_seconds`."""

    Config = EchoConfig

    def __init__(self, config: EchoConfig) -> None:
        self._delay_seconds = config.delay_seconds

    async def run(self, context: Context) -> str:
        await asyncio.sleep(self._delay_seconds)
        return context.prompt
