"""The proxy of `make chaos` loses connections, and never a byte within one."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import Process
from collections import Counter
from pathlib import Path

from bench.chaos_proxy import KINDS

ROOT = Path(__file__).parents[2]
CHUNK = 1000


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Numbers, as many as asked for, in answers long enough to be cut."""
    sent = 0
    try:
        while line := await reader.readline():
            answer = b"".join(b"%d\n" % n for n in range(sent, sent + int(line)))
            sent += int(line)
            writer.write(answer)
            await writer.drain()
    except (ConnectionError, ValueError):  # ValueError: a part of a number is a number, too, but a cut line may be none
        pass
    finally:
        writer.transport.abort()


async def _ask(port: int) -> str:
    """One connection for as long as it lasts, or a while: how it ended. What comes is in order, and without a gap."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionResetError:  # the proxy had accepted it, and reset it before this process looked
        return "reset"
    heard = b""
    ended = "lasted"
    try:
        async with asyncio.timeout(1.5):
            while True:
                writer.write(b"%d\n" % CHUNK)
                await writer.drain()
                for _ in range(CHUNK):
                    line = await reader.readline()
                    heard += line
                    if not line.endswith(b"\n"):
                        return "closed"
                await asyncio.sleep(0.01)
    except TimeoutError:
        pass
    except ConnectionError:
        ended = "reset"
    finally:
        writer.transport.abort()
        whole = heard.decode().split("\n")[:-1]
        assert whole == [str(n) for n in range(len(whole))]
    return ended


async def _ordered(proxy: Process, order: bytes) -> dict[str, int]:
    """Gives an order. Returns how often the proxy did what."""
    assert proxy.stdin is not None
    assert proxy.stdout is not None
    proxy.stdin.write(order)
    did: dict[str, int] = json.loads(await proxy.stdout.readline())
    return did


async def test_all_kinds_of_trouble_happen_and_what_arrives_is_what_was_sent(tmp_path: Path) -> None:
    upstream = await asyncio.start_unix_server(_answer, tmp_path / "s")
    command = (sys.executable, "-m", "bench.chaos_proxy", str(tmp_path / "s"), "seed", "0.02", "1.2")
    proxy = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert proxy.stdin is not None
    assert proxy.stdout is not None
    try:
        port = json.loads(await proxy.stdout.readline())["port"]
        ends: Counter[str] = Counter()
        deadline = time.monotonic() + 120
        did: dict[str, int] = {}

        while time.monotonic() < deadline and not (ends["reset"] and ends["closed"] and set(KINDS) <= set(did)):
            ends.update(await asyncio.gather(*(_ask(port) for _ in range(5))))
            did = await _ordered(proxy, b'{"do": "tell"}\n')
        did = await _ordered(proxy, b'{"do": "calm"}\n')
        assert set(did) == {*KINDS, "connections"}
        assert did["connections"] == ends.total()
        assert ends["reset"] > 0
        assert ends["closed"] > 0
        await asyncio.sleep(1.3)  # stalls that had begun end
        assert await asyncio.gather(*(_ask(port) for _ in range(5))) == ["lasted"] * 5
        proxy.stdin.close()
        assert await asyncio.wait_for(proxy.wait(), 180) == 0
    finally:
        if proxy.returncode is None:
            proxy.kill()
            await proxy.wait()
        upstream.close()
