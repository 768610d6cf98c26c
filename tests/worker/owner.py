"""A process that owns a private store and works in it, as `watchbill run` does: FOLDER CREW.YAML RUN_ID PROMPT."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from watchbill import local
from watchbill.client import Client
from watchbill.embedded import EmbeddedStore


async def main(folder: str, file: str, run_id: str, prompt: str) -> None:
    manifests = local.load([Path(file)])
    async with (
        await EmbeddedStore.open(Path(folder)) as store,
        local.LocalCrews(store.url, manifests, grace_seconds=0),
        Client(store.url) as client,
    ):
        await client.run(manifests.crews[0].name, prompt, id=run_id)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
