"""Commands whose process got no time for longer than they wait for others: nothing is wrong, and they go on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest

from watchbill.cli import stores
from watchbill.connection.url import parse


async def test_a_store_is_found_though_this_process_stood_still_for_longer_than_it_waits(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PATIENCE_SECONDS", 0.5)
    asyncio.get_running_loop().call_soon(time.sleep, 1)
    async with stores.opened(stores.Place(url=redis_url)) as target:
        assert target == parse(redis_url)


WORK = """
import asyncio, ctypes, time
from watchbill.cli import process

def stand_still():
    time.sleep(0.5)  # the command has ended meanwhile
    ctypes.PyDLL(None).sleep(3)  # no other thread of this process runs

async def work(signals):
    asyncio.get_running_loop().run_in_executor(None, stand_still)
    return 0

process.ORDERLY_SECONDS = 2
process.run(work)
print("to its end")
"""


def test_a_command_ends_in_order_though_its_process_stood_still_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", WORK], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "to its end\n"), done.stderr
