"""Makes each edit of edits.toml in a copy of the tree, and fails when its tests don't. `make mutants` runs it.

Not mutmut, because: it mutates Python, within one process. Lua scripts are out of its reach, and so is what a worker
does in processes of its own.
"""

from __future__ import annotations

import argparse
import os
import queue
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tree import ROOT, copy_tree

PACKAGE = "operator/watchbill"
PASSED, FAILED = 0, 1
"""Exit codes of pytest. Any other says that it could not run the tests."""

MOST_SECONDS = 1200
"""An edit whose tests take longer makes them loop for ever: choose another test, or another edit."""


@dataclass(frozen=True)
class Edit:
    """One entry of edits.toml."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    survives: str = ""

    @property
    def name(self) -> str:
        old, new = (" ".join(text.split())[:80] for text in (self.old, self.new))
        return f"{self.file}: {old} -> {new or 'nothing'}"


def load() -> list[Edit]:
    """Return all edits. Raises SystemExit when the old text of one does not occur exactly once in its file."""
    listed = tomllib.loads((Path(__file__).parent / "edits.toml").read_text(encoding="utf-8"))["edit"]
    edits = [Edit(**{**entry, "tests": tuple(entry["tests"])}) for entry in listed]
    wrong = [edit for edit in edits if _text(ROOT, edit).count(edit.old) != 1]
    if wrong:
        names = "\n".join(f"    {edit.name}" for edit in wrong)
        sys.exit(f"The old text of these edits does not occur exactly once in its file; mend edits.toml:\n{names}")
    return edits


def _text(tree: Path, edit: Edit) -> str:
    path = tree / PACKAGE / edit.file
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def run_tests(tree: Path, tests: list[str]) -> int:
    """Run these tests on the code in the tree, and return whether they PASSED or FAILED. Raises SystemExit when pytest
    could not run them."""
    # The environment's own path to the package stands behind PYTHONPATH, also in the processes that the tests start.
    environment = os.environ | {"PYTHONPATH": str(tree / "operator"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *(f"tests/{t}" for t in tests)]
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=MOST_SECONDS
    )
    if done.returncode not in (PASSED, FAILED):
        sys.exit(f"pytest could not run {' '.join(tests)}:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.returncode


def survived(tree: Path, edit: Edit) -> bool:
    """Make the edit, run its tests, and take the edit back."""
    path, before = tree / PACKAGE / edit.file, _text(tree, edit)
    path.write_text(before.replace(edit.old, edit.new), encoding="utf-8")
    try:
        return run_tests(tree, list(edit.tests)) == PASSED
    finally:
        path.write_text(before, encoding="utf-8")


class Trees:
    """Copies of the working tree, one for each edit that is being run."""

    def __init__(self, scratch: Path, jobs: int) -> None:
        self._free: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(jobs):
            copy_tree(scratch / str(number))
            self._free.put(scratch / str(number))

    @contextmanager
    def one(self) -> Iterator[Path]:
        """Yield a copy that nobody else has for the length of the block."""
        tree = self._free.get()
        try:
            yield tree
        finally:
            self._free.put(tree)


def main() -> None:
    """Run all edits, and print those that survived. The exit code is 1 when one did without a reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="*", help="run only edits whose name has one of these texts")
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1), help="how many edits run at once")
    options = parser.parse_args()
    edits = [edit for edit in load() if any(text in edit.name for text in options.only or [""])]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="watchbill-edits-") as scratch, ThreadPoolExecutor(options.jobs) as pool:
        trees = Trees(Path(scratch), options.jobs)

        def is_alive(edit: Edit) -> bool:
            with trees.one() as tree:
                began, alive = time.monotonic(), survived(tree, edit)
            print(f"{'survived' if alive else 'killed'} in {time.monotonic() - began:.1f} s: {edit.name}", flush=True)
            return alive

        with trees.one() as tree:
            if run_tests(tree, sorted({test for edit in edits for test in edit.tests})) != PASSED:
                sys.exit("These tests fail without any edit. Mend that first.")
        alive = [edit for edit, lives in zip(edits, pool.map(is_alive, edits), strict=True) if lives]
    print(f"{len(edits) - len(alive)} of {len(edits)} edits killed in {(time.monotonic() - begun) / 60:.1f} minutes")
    for edit in alive:
        print(f"survived: {edit.name}: {edit.survives or 'no reason is given'}")
    killed_after_all = [edit for edit in edits if edit.survives and edit not in alive]
    for edit in killed_after_all:
        print(f"killed, so it needs no reason any more: {edit.name}")
    sys.exit(bool(killed_after_all) or any(not edit.survives for edit in alive))


if __name__ == "__main__":
    main()
