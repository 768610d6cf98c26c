"""`watchbill top`: crews at work, on a terminal of a real size, and as data."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import termios
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from shell import Shell

import forks
from watchbill import connection
from watchbill.cli.overview import CREWS
from watchbill.names import CrewKeys
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.store import definitions, submissions
from watchbill.store.crews import CrewRedis
from watchbill.store.queue import Finished, Outcome, Queue
from watchbill.store.submissions import Submission


class Crews:
    """Crews in a namespace of a test's own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.namespace = f"ns-{uuid.uuid4().hex[:12]}"

    def do(self, work: Callable[[Any], Any]) -> Any:
        async def doing() -> Any:
            async with connection.connected(self.url) as client:
                return await work(client)

        return asyncio.run(doing())

    def make(self, *names: str) -> None:
        async def making(client: Any) -> None:
            for name in names:
                definition = CrewDefinition(name=name, agents=[AgentDefinition(agent_id="a", agent_class="EchoAgent")])
                uid = await definitions.apply(client, CrewKeys(self.namespace, name), definition)
                records = CrewRedis(client=client, tenant=self.namespace, strict=True)
                await records.save_crew(definition.model_copy(update={"crew_id": uid}))

        self.do(making)

    def submit(self, name: str, *ids: str) -> None:
        async def submitting(client: Any) -> None:
            queue = await self._queue(client, name)
            await submissions.submit(
                queue.client, queue.keys, queue.uid, [Submission(i, "a", "{}") for i in ids], max_queued=1000
            )

        self.do(submitting)

    def work(self, name: str, claims: int, outcomes: str) -> None:
        """A worker claims so many and ends one for each letter of `outcomes`: c completed, f failed."""

        async def working(client: Any) -> None:
            queue = await self._queue(client, name)
            worker = f"host-{uuid.uuid4().hex[:4]}.x"
            claim = await queue.claim(worker, 1, claims, lease_ms=60_000, take_over=True)
            await queue.start(worker, claim.tasks)
            kinds: dict[str, Outcome] = {"c": "completed", "f": "failed"}
            done = [
                Finished(task, kinds[o], "{}", definition="") for task, o in zip(claim.tasks, outcomes, strict=False)
            ]
            if done:
                await queue.finish(worker, done)

        self.do(working)

    async def _queue(self, client: Any, name: str) -> Queue:
        keys = CrewKeys(self.namespace, name)
        return Queue(client, keys, str(await client.hget(keys.meta, "uid")))


@pytest.fixture
def crews(shell: Shell, redis_url: str) -> Crews:
    made = Crews(redis_url)
    shell.env["WATCHBILL_REDIS_URL"] = redis_url
    shell.env["WATCHBILL_NAMESPACE"] = made.namespace
    return made


class Terminal:
    """`watchbill` on a terminal of that size; `text` is the last picture that it drew."""

    def __init__(self, shell: Any, *arguments: str, width: int = 120, height: int = 20) -> None:
        self.leader, self.follower = pty.openpty()
        self.resize(width, height)
        self.before = termios.tcgetattr(self.follower)
        env = {k: v for k, v in shell.env.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm-256color"}
        self.process = forks.start(
            ["-m", "watchbill", *arguments],
            cwd=shell.folder,
            env=env,
            stdin=self.follower,
            stdout=self.follower,
            stderr=self.follower,
            start_new_session=True,
        )
        self.seen = ""
        self._at = 0
        self.picture = ""

    def resize(self, width: int, height: int) -> None:
        fcntl.ioctl(self.follower, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def listens(self, seconds: float = 180) -> list[Any]:
        """Waits until it hears keys as they are pressed, and returns the terminal's attributes then."""
        deadline = time.monotonic() + seconds
        while (now := termios.tcgetattr(self.follower))[6][termios.VSUSP] != b"\0":
            assert time.monotonic() < deadline, "the terminal is as it was"
            time.sleep(0.02)
        return now

    def read(self) -> str:
        while select.select([self.leader], [], [], 0.05)[0]:
            try:
                self.seen += os.read(self.leader, 65536).decode(errors="replace")
            except OSError:
                break
        return self.seen

    def pictures(self) -> list[str]:
        drawn = self.read().split("\x1b[H")[1:]
        return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", one).replace("\r", "") for one in drawn]

    def shows(self, pattern: str, seconds: float = 180) -> re.Match[str]:
        """Waits for a picture like that, the last one that was waited for or a later one; it is then `picture`."""
        deadline = time.monotonic() + seconds
        while True:
            for number, picture in enumerate(self.pictures()[self._at :], self._at):
                if found := re.search(pattern, picture, re.MULTILINE):
                    self._at, self.picture = number, picture
                    return found
            assert time.monotonic() < deadline, f"never showed {pattern}: {self.seen[-3000:]!r}"
            assert self.process.poll() is None, self.read()

    def press(self, keys: str) -> None:
        os.write(self.leader, keys.encode())

    def ended(self) -> int:
        """The exit code; what it wrote meanwhile is read, or it could not end."""
        deadline = time.monotonic() + 180
        while self.process.poll() is None:
            self.read()
            assert time.monotonic() < deadline, "it never ended"
        self.read()
        return self.process.returncode

    def is_restored(self) -> bool:
        left, shown = self.seen.rfind("\x1b[?1049l"), self.seen.rfind("\x1b[?25h")
        return (
            left > self.seen.rfind("\x1b[?1049h") >= 0
            and shown > self.seen.rfind("\x1b[?25l") >= 0
            and termios.tcgetattr(self.follower) == self.before
        )

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.leader)
        os.close(self.follower)


@pytest.fixture
def terminal(shell: Shell) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*arguments: str, **size: int) -> Terminal:
        opened.append(Terminal(shell, *arguments, **size))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_once_prints_a_table_with_the_busiest_first_and_data_says_the_same(shell: Shell, crews: Crews) -> None:
    crews.make("calm", "busy", "idle")
    crews.submit("calm", "t1")
    crews.submit("busy", *(f"t{i}" for i in range(5)))
    crews.work("busy", 2, "")
    done = shell.run("top", "--once", "--interval", "0.2")

    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    header, *rows = [line.split() for line in done.stdout.splitlines()]
    assert header == list(CREWS.title)
    assert [row[0].partition("/")[2] for row in rows] == ["busy", "calm", "idle"]
    assert rows[0][1:3] == ["3", "2"]
    assert rows[0][7] == "1"
    assert rows[2][1:] == ["0", "0", "0", "0", "0", "-", "0", "-", "0.0", "0.0"]

    for form, load in (("json", json.loads), ("yaml", yaml.safe_load)):
        found = load(shell.run("top", "--interval", "0.2", "-o", form).stdout)
        assert [(c["crew"], c["waiting"], c["running"]) for c in found] == [
            (f"{crews.namespace}/busy", 3, 2),
            (f"{crews.namespace}/calm", 1, 0),
            (f"{crews.namespace}/idle", 0, 0),
        ]
        assert found[0]["done_per_second"] == 0
    piped = shell.run("top", "-i", "0.2").stdout.splitlines()
    assert piped[0].split() == header, "no terminal: once"


def test_one_crew_is_shown_in_full(shell: Shell, crews: Crews) -> None:
    crews.make("busy")
    crews.submit("busy", *(f"t{i}" for i in range(5)))
    crews.work("busy", 2, "")
    text = shell.run("top", "busy", "--once", "-i", "0.2").stdout
    assert re.search(r"^normal +3 +2 +\d", text, re.MULTILINE)
    assert re.search(r"^host-\w{4}\.x +0 +- +\d+\.\ds +works$", text, re.MULTILINE)
    assert re.search(r"^t0 +\d+\.\ds +a +normal +1 +host-", text, re.MULTILINE)
    found = json.loads(shell.run("top", "busy", "-i", "0.2", "-o", "json").stdout)
    assert found["crew"] == f"{crews.namespace}/busy"
    assert [c["name"] for c in found["classes"] if c["waiting"]] == ["normal"]
    assert [held["task_id"] for held in found["running_longest"]] == ["t0", "t1"]
    assert len(found["incarnations"]) == found["workers"] == 1


def test_what_to_show_is_chosen_by_name_and_by_namespace(shell: Shell, crews: Crews) -> None:
    crews.make("one", "two", "three")
    some = shell.run("top", "one", f"{crews.namespace}/two", "one", "--once", "-i", "0.2").stdout
    assert sorted(line.split()[0].partition("/")[2] for line in some.splitlines()[1:]) == ["one", "two"]
    everywhere = shell.run("top", "-A", "-i", "0.2", env={"WATCHBILL_NAMESPACE": "elsewhere"}).stdout
    assert {f"{crews.namespace}/{name}" for name in ("one", "two", "three")} <= set(everywhere.split())
    elsewhere = shell.run("top", "-n", "elsewhere", "-i", "0.2")
    assert (elsewhere.returncode, elsewhere.stdout, elsewhere.stderr) == (0, "", "there are no crews\n")

    missing = shell.run("top", "nope", "--once")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "nope" in missing.stderr
    both = shell.run("top", "one", "-A")
    assert both.returncode == 2
    assert "contradict" in both.stderr
    assert shell.run("top", "--redis-url", "redis://127.0.0.1:1").returncode == 3
    assert shell.run("top", "--interval", "0").returncode == 2


def test_a_terminal_is_drawn_anew_as_work_comes_and_goes_and_q_ends_it(
    crews: Crews, terminal: Callable[..., Terminal]
) -> None:
    crews.make("live", "idle")
    top = terminal("top", "-i", "0.2")
    top.shows(r"live +0 +0 ")
    crews.submit("live", *(f"t{i}" for i in range(40)))
    top.shows(r"live +40 +0 ")
    top.shows(r"2 crews, 1 with work   40 waiting, 0 running")
    assert top.picture.index("/live") < top.picture.index("/idle")
    assert re.match(r"watchbill top   \d\d:\d\d:\d\d", top.picture)
    crews.work("live", 30, "c" * 20 + "f" * 10)
    rates = top.shows(r"live +10 +0 .* ([\d.]*[1-9][\d.]*) +([\d.]*[1-9][\d.]*) *$")
    assert float(rates[1]) == pytest.approx(2 * float(rates[2]), rel=0.05, abs=0.15)
    top.shows(r"live +10 +0 .* 0\.0 +0\.0 *$")
    top.press("x")
    top.press("q")
    assert top.ended() == 0
    assert top.is_restored()
    assert "Traceback" not in top.seen


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was(
    crews: Crews, terminal: Callable[..., Terminal], number: signal.Signals, code: int
) -> None:
    crews.make("live")
    top = terminal("top", "live", "-i", "0.2")
    top.shows(r"^PRIORITY")
    top.listens()
    top.process.send_signal(number)
    assert top.ended() == code
    assert top.is_restored()


def test_keys_are_heard_as_they_are_pressed_and_ctrl_z_does_not_strand_the_terminal(
    crews: Crews, terminal: Callable[..., Terminal]
) -> None:
    crews.make("live")
    top = terminal("top", "-i", "0.2")
    top.shows(r"live +0")
    termios_now = top.listens()
    assert termios_now[6][termios.VSUSP] == b"\0"
    assert termios_now[3] & termios.ISIG, "Ctrl-C still is a signal"
    assert not termios_now[3] & (termios.ICANON | termios.ECHO)
    top.press("q")
    assert top.ended() == 0


def test_it_follows_the_size_of_the_terminal(crews: Crews, terminal: Callable[..., Terminal]) -> None:
    crews.make(*(f"crew-{i:02}" for i in range(12)))
    top = terminal("top", "-i", "0.2", width=150, height=30)
    top.shows(r"FAILED/S")
    top.shows(r"crew-11")
    top.resize(50, 8)
    top.shows(r"… \d+ more")
    picture = top.picture
    assert "FAILED/S" not in picture
    assert len(picture.split("\n")) <= 8
    assert max(map(len, picture.split("\n"))) <= 50
    top.press("q")
    assert top.ended() == 0


def test_what_is_drawn_waits_for_a_slow_terminal(crews: Crews, terminal: Callable[..., Terminal]) -> None:
    top = terminal("top", "-i", "0.2")
    top.shows("0 crews|no crews")
    assert not fcntl.fcntl(top.follower, fcntl.F_GETFL) & os.O_NONBLOCK, "which its stdin and stdout share"
    top.press("q")
    assert top.ended() == 0


def test_hundreds_of_crews_are_shown_and_the_busiest_are_seen(crews: Crews, terminal: Callable[..., Terminal]) -> None:
    crews.make(*(f"crew-{i:03}" for i in range(300)))
    crews.submit("crew-123", "t1", "t2")
    top = terminal("top", "-i", "0.2")
    top.shows(r"300 crews, 1 with work")
    assert re.search(r"^\S+/crew-123 +2 +0", top.shows(r"(?s)CREW .*\Z")[0], re.MULTILINE)
    top.shows(r"… 28\d more")


async def test_a_store_that_goes_away_is_said_so_and_it_goes_on_when_it_is_back(
    shell: Shell, terminal: Callable[..., Terminal], private_redis: Callable[[], Any]
) -> None:
    server = await private_redis()
    crews = Crews(server.url)
    await asyncio.to_thread(crews.make, "live")
    await asyncio.to_thread(crews.submit, "live", "t1", "t2")
    top = terminal("top", "-i", "0.2", "-n", crews.namespace, "--redis-url", server.url, width=200)
    top.shows(r"live +2 +0 ")
    await server.kill()
    top.shows(r"no answer from the store for \d+\.\ds: ")
    assert re.search(r"live +2 +0 ", top.picture), "what was seen last stays"
    await server.restart()
    top.shows(r"1 crew, 1 with work")
    server.pause()
    top.shows(r"no answer from the store for \d")
    server.resume()
    top.shows(r"1 crew, 1 with work")
    await server.kill()
    top.shows(r"no answer")
    top.press("q")
    assert top.ended() == 0
    assert top.is_restored()
