"""`bench.scale` runs measures that are there, and that the page describes."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from bench import scale

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "bench.md"


@pytest.mark.pure
def test_each_measure_is_a_module_that_the_page_describes() -> None:
    for module, *_ in scale.MEASURES.values():
        assert find_spec(module) is not None
        assert f"python -m {module}" in PAGE.read_text()


def test_chosen_ones_are_run_and_a_failure_of_one_is_told() -> None:
    def ran(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bench.scale", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)

    listed = ran("--list", "failover", "kills")
    assert (listed.returncode, listed.stdout) == (
        0,
        "== failover: python -m bench.failover\n== kills: python -m bench.heartbeats --kills\n",
    )
    refused = ran("rollouts")
    assert refused.returncode == 2
    measures = "crews, scaling, heartbeats, kills, failover, rollout"
    assert f"there is no measure rollouts; there are: {measures}" in refused.stderr


def test_a_measure_that_fails_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scale, "MEASURES", {"bad": ("no_such_module",), "good": ("this",)})
    monkeypatch.setattr(sys, "argv", ["bench.scale"])
    assert scale.main() == 1
    said = capfd.readouterr()
    assert "The Zen of Python" in said.out
    assert said.err.endswith("failed: bad\n")
