"""Mutates what the pure tests cover with mutmut, and fails when too many mutants survive. `make mutants` runs it.

It runs a random sample, because all mutants would take an hour; the seed is fixed, so that unchanged code gives the
same sample. `[tool.mutmut]` in pyproject.toml says which modules are mutated and which tests are to kill the mutants,
and equivalent.toml which mutants no test could kill.
mutmut finds a source root only at `.`, `src` or `source`, so it runs in a copy of the tree where `operator/` is `src/`.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tree import copy_tree

SAMPLE = 1000
SEED = 12
LEAST_KILLED = 0.90  # of the mutants in the sample that a pure test reaches

NO_MUTANT = "-"
"""mutmut lists mutants only after a run has generated them; one that is asked for no mutant does it, then fails."""
SURVIVED = {"survived", "suspicious", "not checked"}


def reason(name: str, diff: str) -> str:
    """Return why this mutant means the same as the code, as equivalent.toml says it; empty if it does not say so."""
    lines = "\n".join(line.strip()[1:].strip() for line in diff.splitlines()[1:])
    listed = tomllib.loads((Path(__file__).parent / "equivalent.toml").read_text(encoding="utf-8"))["equivalent"]
    fits = (e for e in listed if re.match(e.get("names", ""), name) and re.search(e.get("lines", ""), lines))
    return str(next((entry["reason"] for entry in fits), ""))


class Mutmut:
    """The commands of mutmut in one folder. Each raises SystemExit, with the output, when mutmut fails."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self.folder = folder
        self.jobs = jobs

    def generate(self) -> list[str]:
        """Generate all mutants, and return their names."""
        output = self._call("run", f"--max-children={self.jobs}", NO_MUTANT, check=False)
        return sorted(self.statuses()) or sys.exit(f"mutmut generated no mutants:\n{output}")

    def run(self, names: Sequence[str]) -> None:
        """Run the tests of each of these mutants."""
        self._call("run", f"--max-children={self.jobs}", *names)

    def statuses(self) -> dict[str, str]:
        """Return the status of every mutant by its name."""
        lines = self._call("results", "--all", "true").splitlines()
        return dict(line.strip().rsplit(": ", 1) for line in lines if "__mutmut_" in line)

    def diff(self, name: str) -> str:
        """Return the lines that the mutant changes, with its name and its file above them."""
        lines = self._call("show", name).splitlines()
        file = next((line[4:] for line in lines if line.startswith("--- ")), "")
        changed = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        return "\n".join([f"{name} in {file.replace('src/', 'operator/', 1)}", *(f"    {line}" for line in changed)])

    def _call(self, *arguments: str, check: bool = True) -> str:
        command = [str(Path(sys.executable).parent / "mutmut"), *arguments]
        options: dict[str, Any] = {"stderr": subprocess.STDOUT, "stdout": subprocess.PIPE, "text": True}
        done = subprocess.run(command, cwd=self.folder, check=False, **options)
        output: str = done.stdout.replace("\r", "\n")
        if check and done.returncode:
            sys.exit(f"mutmut {arguments[0]} failed:\n{output[-4000:]}")
        return output


def main() -> None:
    """Run the sample and print the figures and the survivors. The exit code is 1 when too many survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=SAMPLE, help="how many mutants to run; 0 means all of them")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many mutants run at once")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="watchbill-mutants-") as scratch:
        folder = Path(scratch)
        copy_tree(folder)
        (folder / "operator").rename(folder / "src")
        mutmut = Mutmut(folder, options.jobs)
        names = mutmut.generate()
        sample = random.Random(options.seed).sample(names, min(options.sample or len(names), len(names)))
        print(f"Running {len(sample)} of {len(names)} mutants, seed {options.seed}", flush=True)
        mutmut.run(sample)

        statuses = mutmut.statuses()
        counts = Counter(statuses[name] for name in sample)
        diffs = {name: mutmut.diff(name) for name in sorted(sample) if statuses[name] in SURVIVED}
        equivalent = {name: why for name, diff in diffs.items() if (why := reason(name, diff))}
        survivors = [name for name in diffs if name not in equivalent]
        for name in survivors:
            print(diffs[name])
        for name, why in equivalent.items():
            print(f"equivalent: {name}: {why}")
        # A timeout shows an endless loop, or a busy machine, so it counts neither way.
        for name in sorted(name for name in sample if statuses[name] not in SURVIVED | {"killed"}):
            print(f"{statuses[name]}: {name}")
    share = counts["killed"] / max(counts["killed"] + len(survivors), 1)
    print(", ".join(f"{count} {status}" for status, count in counts.most_common()), f"({len(equivalent)} equivalent)")
    print(f"{share:.1%} of the mutants that a pure test reaches were killed; at least {LEAST_KILLED:.0%} must be")
    sys.exit(share < LEAST_KILLED)


if __name__ == "__main__":
    main()
