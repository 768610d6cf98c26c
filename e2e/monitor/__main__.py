"""`make monitor`: a Prometheus over workers of this machine, or one that runs, and what the boards' queries give."""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import tempfile
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from e2e.cluster import machine, monitoring
from e2e.cluster.machine import ClusterError, say
from e2e.monitor import example, server, view
from e2e.monitor.answers import Chosen, answer
from e2e.monitor.server import Prometheus
from monitoring import alerts
from monitoring.boards import BOARDS

SCRAPE_SECONDS: Final = 2
OWN_WINDOW: Final = "30s"
"""Window of rates where this scrapes every other second."""
FIRST_SECONDS: Final = 180.0
"""Seconds for the first answer."""
Check = Callable[[], None]


def main() -> int:
    # Terminated is like interrupted: what was started is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments = _parser().parse_args()
    try:
        with ExitStack() as stack:
            _run(arguments, stack)
    except (ClusterError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0 if not arguments.once else 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m e2e.monitor", description=__doc__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--targets",
        nargs="+",
        metavar="HOST:PORT",
        help="processes with a health port; default: the example at work, started here",
    )
    where.add_argument("--prometheus", metavar="URL", help="ask this one, as in http://127.0.0.1:9090, and start none")
    parser.add_argument("--board", choices=BOARDS, help="default: crew, and with --once all that have data")
    parser.add_argument("--crew", metavar="NAMESPACE/NAME", help="whose board Crew is; default: the first of all")
    parser.add_argument("--window", metavar="DURATION", help="of rates; default: 30s, of a running Prometheus 5m")
    parser.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="between two looks (default 2)")
    parser.add_argument("--once", action="store_true", help="print what is true now, and exit")
    return parser


def _run(arguments: argparse.Namespace, stack: ExitStack) -> None:
    crew = _split(arguments.crew)
    if arguments.prometheus:
        prometheus, check = Prometheus(arguments.prometheus), _nothing
    else:
        prometheus, check = _own(arguments.targets, stack)
    looks = Looks(prometheus, crew, arguments.window or ("5m" if arguments.prometheus else OWN_WINDOW))
    if arguments.once:
        _once(looks, arguments.board)
    else:
        _live(looks, arguments.board or "crew", arguments.every, check)


def _split(crew: str | None) -> tuple[str, str] | None:
    if crew is None:
        return None
    namespace, slash, name = crew.partition("/")
    if not (slash and namespace and name):
        raise ClusterError(f"--crew: {crew!r} names no crew", "Give it as NAMESPACE/NAME, as in default/log-triage.")
    return namespace, name


def _nothing() -> None: ...


def _own(targets: list[str] | None, stack: ExitStack) -> tuple[Prometheus, Check]:
    """Starts a Prometheus over the targets, or over the example, and waits until there are figures of all of them."""
    monitoring.path("prometheus")  # before anything is started
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="watchbill-monitor-")))
    check: Check = _nothing
    if not targets:
        say(f"the example begins, with work every {example.INTERVAL_SECONDS} s")
        port, check = stack.enter_context(example.at_work(folder))
        targets = [f"127.0.0.1:{port}"]
        seen = f"sum(rate(watchbill_run_seconds_count[{OWN_WINDOW}])) > 0"
    else:
        seen = f"count(count_over_time(up[1m]) > 1) >= {len(targets)}"
    prometheus = stack.enter_context(server.running(folder, _config(targets, folder)))
    say(f"Prometheus is at {prometheus.url}")

    def has_seen() -> bool:
        check()
        return bool(prometheus.query(seen))

    machine.until(has_seen, within=FIRST_SECONDS, what="Prometheus has figures", every=0.5)
    if away := sorted(series.labels["instance"] for series in prometheus.query("up == 0")):
        raise ClusterError(f"No metrics come from {', '.join(away)}", "Start it with --health-port PORT.")
    return prometheus, check


def _config(targets: Sequence[str], folder: Path) -> dict[str, Any]:
    # The operator's alerts would tell that there is none.
    groups = [group for group in alerts.render()["groups"] if group["name"] != "watchbill-platform"]
    rules = folder / "rules.yaml"
    rules.write_text(yaml.safe_dump({"groups": groups}))
    times = {"scrape_interval": f"{SCRAPE_SECONDS}s", "scrape_timeout": f"{SCRAPE_SECONDS}s"}
    job = {"job_name": "watchbill", "honor_labels": True, "static_configs": [{"targets": list(targets)}]}
    own = {**times, "evaluation_interval": f"{SCRAPE_SECONDS}s"}
    return {"global": own, "rule_files": [str(rules)], "scrape_configs": [job]}


class Looks:
    """Looks at the boards, each at what is true now."""

    def __init__(self, prometheus: Prometheus, crew: tuple[str, str] | None, window: str) -> None:
        self._prometheus = prometheus
        self._crew = crew
        self._window = window

    def board(self, name: str) -> tuple[RenderableType, bool]:
        """Returns the board as text, and whether anything is known."""
        board = BOARDS[name]
        namespace, crew = self._crew or self._first()
        chosen = Chosen(namespace, crew, self._window)
        found = [answer(board, panel, chosen, self._prometheus.query) for panel in board.panels()]
        about = board.about if name != "crew" else f"of {namespace}/{crew}"
        return view.shown(board, found, about), any(one.series for one in found)

    def _first(self) -> tuple[str, str]:
        crews = self._prometheus.query("max by (namespace, crew) (watchbill_workers)")
        names = sorted((one.labels.get("namespace", ""), one.labels.get("crew", "")) for one in crews)
        return names[0] if names else ("none", "none")


def _once(looks: Looks, board: str | None) -> None:
    # A pipe has no width; the questions and their values need some.
    console = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140)
    told = [(name, *looks.board(name)) for name in ([board] if board else BOARDS)]
    if not any(known for *_, known in told):
        raise ClusterError("Prometheus knows no figure of these boards", "Does it scrape workers or an operator?")
    for _, text, known in told:
        if known:
            console.print(text, "")


def _live(looks: Looks, board: str, every: float, check: Check) -> None:
    console = Console()
    if not console.is_terminal:
        raise ClusterError("This is no terminal", "Have the boards printed once: make monitor ONCE=1")
    names = list(BOARDS)
    keys = Text("  ".join(f"{number} {name}" for number, name in enumerate(names, 1)) + "  q ends it", style="dim")
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            check()
            live.update(Group(keys, looks.board(board)[0]), refresh=True)
            key = pressed(every)
            if key in {"q", "Q"}:
                return
            if key.isdecimal() and 0 < int(key) <= len(names):
                board = names[int(key) - 1]


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Yields a function that waits so many seconds for a key, and returns it; empty: none was pressed."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def pressed(seconds: float) -> str:
        readable, _, _ = select.select([fd], [], [], seconds)
        return os.read(fd, 64).decode(errors="replace")[:1] if readable else ""

    try:
        tty.setcbreak(fd, termios.TCSANOW)
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, before)


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""


if __name__ == "__main__":
    sys.exit(main())
