"""All that the operator promises at full size, one measure after the other: for a machine that does nothing else.

    python -m bench.scale                    # all of them: more than an hour
    python -m bench.scale failover rollout   # these
    python -m bench.scale --list             # the command of each, which may be run by itself

docs/bench.md says what each of them measures. Exits with 1 if one of them does not exit with 0; the others are run all
the same.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Final

MEASURES: Final = {
    "crews": ("bench.operator_bench", "--crews", "10000"),
    "scaling": ("bench.operator_bench", "--crews", "2000", "--samples", "100"),
    "heartbeats": ("bench.heartbeats",),
    "kills": ("bench.heartbeats", "--kills"),
    "failover": ("bench.failover",),
    "rollout": ("bench.rollout",),
}
"""Measure → the module that makes it, with its arguments."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measures", nargs="*", metavar="|".join(MEASURES), help="default: all")
    parser.add_argument("--list", action="store_true", help="say what would be run, and run nothing")
    arguments = parser.parse_args()
    if unknown := set(arguments.measures) - set(MEASURES):
        parser.error(f"there is no measure {', '.join(sorted(unknown))}; there are: {', '.join(MEASURES)}")
    failed = []
    for name in arguments.measures or MEASURES:
        words = MEASURES[name]
        print(f"== {name}: python -m {' '.join(words)}", flush=True)
        if not arguments.list and subprocess.run([sys.executable, "-m", *words], check=False).returncode != 0:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
