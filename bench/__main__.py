"""Watchbill beside the other queues: speed, latency, cost to Redis, and that every task is done once and rightly.

    python -m bench [--peers NAME...] [--tasks 5000] [--rounds 5] [--probes 200] [--no-aof] [--renew] [--json FILE]
    python -m bench --short        only what needs no installing, small: correctness, within a minute

Peers are arq, saq, taskiq, streaq, celery-prefork, celery-threads, dramatiq and rq, each in an environment of its own
that is made at first use (pip), and asynq and bullmq where Go and Node.js are; beside `floor`, the least Python that is
still an at-least-once Streams worker. One private server, one worker process each, concurrency 10, results on.
docs/bench.md says what is measured, and how each peer is set up.

Exits with 1 when a count or a result is wrong. A slow machine, or a goal that was missed, is no failure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from bench import compare, environments, report
from bench.rounds import Plan

from watchbill.errors import WatchbillError


def main() -> int:
    # Terminated is like interrupted: what was started is stopped. A shell may have SIGINT ignored in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    arguments = _arguments()
    plan = Plan(arguments.tasks, arguments.probes)
    try:
        found = asyncio.run(
            compare.run(
                list(dict.fromkeys(arguments.peers)),
                plan,
                arguments.rounds,
                aof=not arguments.no_aof,
                renew=arguments.renew,
            )
        )
    except WatchbillError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for line in report.lines(found, goals=not arguments.short):
        print(line)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report.as_json(found), indent=1) + "\n")
    return 1 if found.broken else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", nargs="+", choices=environments.ALL, metavar="NAME", help="Default: all.")
    parser.add_argument("--tasks", type=int, help="Drained in each round. Default 5000.")
    parser.add_argument("--rounds", type=int, help="Default 5.")
    parser.add_argument("--probes", type=int, help="Latencies in each round. Default 200.")
    parser.add_argument("--no-aof", action="store_true", help="Leave out Watchbill and the floor with AOF everysec.")
    parser.add_argument("--renew", action="store_true", help="Make the environments anew, with today's releases.")
    parser.add_argument("--short", action="store_true", help="Watchbill and the floor, 1000 tasks, 20 latencies, once.")
    parser.add_argument("--json", metavar="FILE", help="Write every round, medians and goals.")
    arguments = parser.parse_args()
    defaults = {"peers": environments.ALL, "tasks": 5000, "rounds": 5, "probes": 200}
    if arguments.short:
        defaults = {"peers": compare.WITH_AOF, "tasks": 1000, "rounds": 1, "probes": 20}
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    for name in ("tasks", "rounds", "probes"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
