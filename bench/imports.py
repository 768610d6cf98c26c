"""The cost of importing the client beyond its base, redis.asyncio and pydantic.

    python bench/imports.py [--rounds 11]

Each measurement is a fresh interpreter; quote the median difference (the goal is 60 ms at most).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

MEASURE = (
    "import time; t = time.perf_counter(); import redis.asyncio, pydantic; pydantic.BaseModel, pydantic.Field; {}; "
    "print((time.perf_counter() - t) * 1000)"
)


def milliseconds(more: str) -> float:
    done = subprocess.run([sys.executable, "-c", MEASURE.format(more)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    base, ours = [], []
    for _ in range(rounds):  # in turns, so that a slow moment hits both
        base.append(milliseconds("pass"))
        ours.append(milliseconds("import watchbill.client"))
    differences = [b - a for a, b in zip(base, ours, strict=True)]
    print(f"redis.asyncio + pydantic: {statistics.median(base):.0f} ms")
    print(f"with watchbill.client:    {statistics.median(ours):.0f} ms")
    print(
        f"difference: {statistics.median(differences):.0f} ms "
        f"({min(differences):.0f} … {max(differences):.0f}), {rounds} rounds"
    )


if __name__ == "__main__":
    main()
