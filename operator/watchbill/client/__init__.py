"""The client library: submit work to a crew, wait for it, read its state. It is light to import.

async with Client("redis://localhost:6379") as client:
    run_id = await client.submit("blog-team", "Write about tides")
    result = await client.wait("blog-team", run_id)

result = await watchbill.client.run("crew.yaml", "Write about tides")     # no store, no cluster: all in this process
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from watchbill.client.budgets import Spending
from watchbill.client.client import Client, Result
from watchbill.client.control import Replay
from watchbill.client.crews import Applied
from watchbill.client.sync import SyncClient
from watchbill.errors import NotFound
from watchbill.plan.scaling import Scaling
from watchbill.plan.why import Why
from watchbill.store.control import CancelledAll
from watchbill.store.dead import DeadLetter
from watchbill.store.figures import WorkerInfo
from watchbill.tasks import Approval

__all__ = [
    "Applied",
    "Approval",
    "CancelledAll",
    "Client",
    "DeadLetter",
    "Replay",
    "Result",
    "Scaling",
    "Spending",
    "SyncClient",
    "Why",
    "WorkerInfo",
    "run",
]


async def run(
    crew: str | Path,
    prompt: str,
    *,
    inputs: Mapping[str, str] | None = None,
    redis_url: str | None = None,
    timeout: float | None = None,
    **options: Any,
) -> Result:
    """Runs a crew once, and returns the result.

    `crew` is a YAML file, which is run in this process (in a private store that is removed afterwards, or in the one
    at `redis_url`); or, with `redis_url`, the name of a crew whose workers run elsewhere. `options` are those
    of `Client.submit`. Raises InvalidInput with file, line and field before anything is started.
    """
    path = Path(crew)
    if isinstance(crew, Path) or path.suffix in {".yaml", ".yml", ".json"}:
        # The one door upwards: only who runs a crew in this process pays for importing what runs it.
        from watchbill import local

        return await local.run_file(path, prompt, inputs=inputs, redis_url=redis_url, timeout=timeout, **options)
    if redis_url is None:
        raise NotFound(f"{crew!r} is no YAML file; to run a crew by its name, say where with redis_url")
    async with Client(redis_url) as client:
        return await client.run(crew, prompt, inputs=inputs, timeout=timeout, **options)
