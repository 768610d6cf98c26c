"""`make monitor` as people use it: in a terminal, over the example that it starts, and over what runs already."""

from __future__ import annotations

import os
import pty
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import e2e.monitor.__main__ as monitor
from e2e.cluster import machine
from e2e.control_plane.charts import ROOT
from e2e.control_plane.test_alert_rules import promtool
from e2e.monitor.server import Prometheus

__all__ = ["promtool"]

LATER = 300.0
"""Seconds: for what a machine without other work does in fifteen, and more than the program itself waits."""
MARK = "WATCHBILL_MONITOR_TEST"
"""A variable in the environment of all that a test starts."""


def printed(*settings: str) -> subprocess.CompletedProcess[str]:
    """Runs `make monitor ONCE=1` with these settings, to its end."""
    words = ("make", "--no-print-directory", "monitor", "ONCE=1", *settings)
    own = {**os.environ, "COLUMNS": "160"}
    return subprocess.run(
        words, cwd=ROOT, env=own, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LATER
    )


def fleet(url: str) -> str:
    """Returns the board of all crews, once a heartbeat has fired and its run has ended; empty before."""
    done = printed(f"PROMETHEUS={url}")
    assert done.returncode == 0, done.stderr
    assert "Watchbill / Fleet" in done.stdout
    ended = re.search(r"How many runs end, and how\? +completed [\d.]+/s *\n", done.stdout)
    fired = re.search(r"Which heartbeats fire\? +again \d+ *\n", done.stdout)
    return done.stdout if ended and fired else ""


@contextmanager
def terminal(mark: str) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str], Callable[[bytes], object]]]:
    """`make monitor` in a terminal. Yields it, and functions: all that is on the screen so far, and to press a key."""
    ours, its = pty.openpty()
    size = {"COLUMNS": "160", "LINES": "90", "TERM": "xterm"}
    words = ("make", "--no-print-directory", "monitor")
    seen = bytearray()
    os.set_blocking(ours, False)

    def screen() -> str:
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # nothing more yet, or no end of the other side is open
                part = b""
            if not part:
                return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace"))
            seen.extend(part)

    process = subprocess.Popen(
        words, cwd=ROOT, env={**os.environ, **size, MARK: mark}, stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    try:
        yield process, screen, lambda keys: os.write(ours, keys)
    finally:
        process.terminate()
        process.wait()
        os.close(ours)


def left(mark: str) -> list[str]:
    """The processes that a test has started, and that run."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={mark}".encode() in file.read_bytes().split(b"\0"):
                found.append(file.parent.joinpath("cmdline").read_text().replace("\0", " "))
        except OSError:  # it has ended, or is another user's
            continue
    return found


def test_it_shows_the_example_at_work_and_leaves_nothing_behind(promtool: Path) -> None:
    mark = secrets.token_hex(8)
    with terminal(mark) as (process, screen, press):
        machine.until(lambda: re.search(r"Prometheus is at (\S+)\s", screen()), within=LATER, what="Prometheus")
        url = re.findall(r"Prometheus is at (\S+)", screen())[0]
        machine.until(
            lambda: re.search(r"How do attempts end\? +completed [\d.]+/s", screen()), within=LATER, what="Crew"
        )
        assert "Watchbill / Crew  of default/log-triage" in screen()

        shown = machine.until(lambda: fleet(url), within=LATER, what="a run ends after its attempts")
        assert re.search(r"How many workers are there, and how full are they\? +workers 1 · ", shown)
        assert re.search(r"Nothing is known of\n(.*\n)* +How many requests do models get", shown)
        assert not re.search(r"Does the store answer the operator\? +\d", shown), "there is none"

        (target,) = Prometheus(url).query("up")

        def refused() -> bool:
            """Names what does not answer, and now and then what is too busy to answer in time."""
            done = printed(f"TARGETS={target.labels['instance']} 127.0.0.1:1")
            assert (done.returncode, done.stdout.count("Watchbill /")) == (2, 0)
            return "error: No metrics come from 127.0.0.1:1\nStart it with --health-port PORT." in done.stderr

        machine.until(refused, within=LATER, what="the target that does not answer is named")

        press(b"1")
        machine.until(lambda: "Watchbill / Fleet" in screen(), within=LATER, what="the other board")
        press(b"q")
        assert process.wait(LATER) == 0
    machine.until(lambda: not left(mark), within=LATER, what="all has ended")


def test_it_says_what_to_do_where_it_can_show_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["monitor", *words])
        assert monitor.main() == 1
        return capsys.readouterr().err

    with monkeypatch.context() as nothing:
        nothing.setenv("PATH", "")
        nothing.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert said("--once").startswith(
            "error: prometheus is not here\nBuild it: python -m e2e.cluster build monitoring"
        )
    assert said("--once", "--prometheus=http://127.0.0.1:1").startswith(
        "error: No Prometheus answers at http://127.0.0.1:1: "
    )
    assert said("--prometheus=http://127.0.0.1:1").startswith("error: This is no terminal\n")
    assert said("--once", "--crew=blog").startswith("error: --crew: 'blog' names no crew\n")
