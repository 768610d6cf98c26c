"""Work whose agents note their beginning and end outside of the queue (sample_agents.Noted), and what must hold of it:
nothing is lost, nothing begins twice, and no pod with a running task is told to end.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from e2e.cluster import machine
from e2e.kind.team import NAMESPACE, Team, connected
from watchbill.client import Client
from watchbill.names import CrewKeys

Given = Mapping[str, Sequence[str]]
"""Crew → the ids of its tasks."""


@contextmanager
def busy(team: Team, crew: str, prompts: Sequence[str]) -> Iterator[list[str]]:
    """Gives the crew so many tasks that some always wait, for the length of the block. Yields their ids."""
    given: list[str] = []
    over = threading.Event()

    async def give(url: str) -> None:
        async with Client(url, namespace=NAMESPACE) as client:
            while not over.is_set():
                if (await client.figures(crew)).waiting < len(prompts):
                    given.extend(await client.submit_many(crew, "one", prompts))
                await asyncio.sleep(0.2)

    with team.store() as url, ThreadPoolExecutor(1) as thread:
        giving = thread.submit(asyncio.run, give(url))
        try:
            machine.until(lambda: given or giving.done(), within=180, what="the first tasks")
            yield given
        finally:
            over.set()
        giving.result()


def until_ended(url: str, given: Given, *, within: float) -> None:
    """Every task has come to a result."""
    with connected(url) as client:

        def all_ended() -> bool:
            with client.pipeline(transaction=False) as pipeline:
                for crew in given:
                    pipeline.xlen(CrewKeys(NAMESPACE, crew).results)
                return all(n >= len(ids) for n, ids in zip(pipeline.execute(), given.values(), strict=True))

        machine.until(all_ended, within=within, what="all tasks end", every=0.5)


def check(url: str, given: Given, pods: Sequence[Mapping[str, Any]]) -> None:
    """Each task has begun, ended and come to a result once, and in a pod that nobody had told to end. `pods`: the
    events of a watch on them."""
    told = _told_to_end(pods)
    with connected(url) as client:
        for crew, ids in given.items():
            keys = CrewKeys(NAMESPACE, crew)
            results: Any = client.xrange(keys.results)
            notes: Any = client.xrange(f"{keys.root}stream:ledger")
            once = Counter(ids)
            assert Counter(entry["id"] for _, entry in results if entry["state"] == "completed") == once, crew
            for what in ("begun", "ended"):
                noted = {(entry["task"], entry["fence"]) for _, entry in notes if entry["what"] == what}
                count = Counter(task for task, _ in noted)
                wrong = [entry for _, entry in notes if count[entry["task"]] != 1]
                assert count == once, (crew, what, wrong)
            late = [entry for at, entry in notes if _seconds(at) > told.get(entry["pod"], float("inf")) + 1]
            assert late == [], crew  # a second: the API server rounds down


def _told_to_end(pods: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Pod → when somebody told it to end, in Unix seconds."""
    found: dict[str, float] = {}
    for event in pods:
        metadata = event["object"]["metadata"]
        if "deletionTimestamp" in metadata:
            last = datetime.fromisoformat(metadata["deletionTimestamp"]).timestamp()
            found.setdefault(metadata["name"], last - metadata["deletionGracePeriodSeconds"])
    return found


def _seconds(entry_id: str) -> float:
    return int(entry_id.partition("-")[0]) / 1000
