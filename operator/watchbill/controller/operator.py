"""The operator's process: connects, waits until the API server serves its kinds, and runs a controller while it does.

Where it does so again, the controller is a new one: what the former one knows may be without fields that older CRDs
have dropped.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final

import redis.asyncio

from watchbill import background, connection
from watchbill.clock import SYSTEM, Clock
from watchbill.controller import garbage, observed, served
from watchbill.controller.beats_stored import Heartbeats
from watchbill.controller.controller import Controller
from watchbill.errors import WatchbillError
from watchbill.kubernetes_api import KubernetesApi
from watchbill.settings import Settings

logger = logging.getLogger("watchbill.operator")

START_SECONDS: Final = 2.0
"""The pause between questions to an API server that does not serve our kinds yet."""


class Operator:
    """Runs until `stop`. Raises RuntimeError when the watch can't be kept up."""

    def __init__(
        self,
        settings: Settings,
        url: str,
        schedule: Callable[[redis.asyncio.Redis, Clock], Heartbeats],
        clock: Clock = SYSTEM,
    ) -> None:
        """`schedule` makes the scheduler over the operator's client of the store at `url`."""
        self._settings = settings
        self._url = url
        self._schedule = schedule
        self._clock = clock
        self._stopping = asyncio.Event()
        self._identity = f"{socket.gethostname()}_{uuid.uuid4()}"  # not the same after a restart in the same pod
        self._controller: Controller | None = None
        """None: the API server does not serve our kinds yet."""

    @property
    def is_ready(self) -> bool:
        """True while this process reconciles crews, or can do so at once when its replica is elected."""
        return self._controller is not None and self._controller.is_ready

    def stop(self) -> None:
        self._stopping.set()

    async def observe(self) -> None:
        """Reads for the metrics what no reconciliation has read lately."""
        if self._controller is not None:
            await self._controller.observe()

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            stack.enter_context(garbage.bounded_pauses())
            client = connection.connect(self._url)
            stack.push_async_callback(client.aclose)
            kubernetes = await stack.enter_async_context(await KubernetesApi.connect(self._clock))
            stopped = asyncio.create_task(self._stopping.wait())
            stack.push_async_callback(background.end, stopped)
            while True:
                await self._operate(client, kubernetes, stopped)
                if stopped.done():
                    break
                observed.show_nothing()
                garbage.collect_whole()  # the former controller would stay beside the next one

    async def _operate(
        self, client: redis.asyncio.Redis, kubernetes: KubernetesApi, stopped: asyncio.Future[Any]
    ) -> None:
        """Runs a controller until `stopped`, or until the API server no longer serves all that we know."""
        async with AsyncExitStack() as stack:
            starting = asyncio.create_task(_until_served(kubernetes, self._clock))
            stack.push_async_callback(background.end, starting)
            await asyncio.wait({stopped, starting}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                return
            scheduler = self._schedule(client, self._clock)
            owner = f"{self._settings.installation}@{starting.result()}"
            self._controller = Controller(
                self._settings, client, kubernetes, scheduler, owner, self._identity, self._clock
            )
            lacking = asyncio.create_task(served.until_lacking(kubernetes, self._clock))
            over = asyncio.create_task(asyncio.wait({stopped, lacking}, return_when=asyncio.FIRST_COMPLETED))
            stack.push_async_callback(background.end, lacking, over)
            try:
                await self._controller.run(over)
            finally:
                self._controller = None
            if lacking.done():
                lacking.result()  # raises why it ended, if it failed


async def _until_served(kubernetes: KubernetesApi, clock: Clock) -> str:
    """Waits until the API server serves our kinds, with all fields that we know. Returns the cluster's uid."""
    while True:
        try:
            established = [await kubernetes.is_established(plural) for plural in ("crews", "heartbeats")]
            if not all(established):
                logger.warning("the API server does not serve crews and heartbeats yet")
            elif lacking := await served.lacking(kubernetes):
                shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
                logger.error(
                    "nothing is done until the CRDs are upgraded, which are older than this operator: they lack %s. "
                    "Upgrade them: watchbill crds | kubectl apply --server-side --force-conflicts -f -",
                    shown,
                )
            else:
                return await kubernetes.uid()
        except WatchbillError as error:
            logger.warning("can't start yet: %s", error)
        await clock.sleep(START_SECONDS)
