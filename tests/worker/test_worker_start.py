"""The start of a worker or a command: it imports little, and what it puts off can be had later."""

from __future__ import annotations

import os
import re
import subprocess
import sys

NOT_NEEDED = {
    "aiohttp",
    "aiosmtplib",
    "apprise",
    "apscheduler",
    "jsonschema",
    "kopf",
    "kubernetes",
    "mcp",
    "openai",
    "opentelemetry",
    "pydantic_ai",
    "requests",
    "rich",
    "typer",
    "yaml",
}
IN_VAIN = {"opentelemetry.metrics", "opentelemetry.sdk", "opentelemetry.sdk.metrics"}
"""What redis-py tries to import; Python lists that, too."""
LATER = """\
import gc, sys
from watchbill import init

init.begin_imports()
init.import_redis()
import watchbill.worker.__main__
assert not gc.isenabled()
init.imported()
assert gc.isenabled() and gc.get_freeze_count() > 10_000
assert not [name for name in sys.modules if name.startswith("opentelemetry.")]

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from redis.observability import OTelConfig, get_observability_instance, recorder

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
get_observability_instance().init(OTelConfig())
recorder.record_error_count("127.0.0.1", 6379, "127.0.0.1", 6379, ValueError("x"), 1)
assert "ValueError" in reader.get_metrics_data().to_json()
"""
WORKS = """\
import gc, sys
from watchbill import init

init.begin_imports()
from watchbill.cli import process

async def work(signals):
    return 7 if gc.isenabled() and gc.get_freeze_count() > 1_000 else 1

assert not gc.isenabled()
sys.exit(process.run(work))
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    without = {name: value for name, value in os.environ.items() if not name.startswith(("WATCHBILL_", "OTEL_"))}
    return subprocess.run([sys.executable, *arguments], env=without, capture_output=True, text=True, timeout=120)


def packages(report: str) -> set[str]:
    """Those of which something was imported, by the report of `-X importtime`."""
    listed = set(re.findall(r"\| +([\w.]+)$", report, re.MULTILINE)) - IN_VAIN
    return {name.partition(".")[0] for name in listed}


def test_a_worker_imports_at_its_start_nothing_of_what_only_some_need() -> None:
    done = python("-X", "importtime", "-m", "watchbill.worker")
    assert done.returncode == 2, "it was told of no crew"
    imported = packages(done.stderr)
    assert {"redis", "uvloop", "watchbill"} <= imported
    assert imported & NOT_NEEDED == set()


def test_a_command_imports_nothing_of_what_only_others_need() -> None:
    done = python("-X", "importtime", "-m", "watchbill", "status", "--state", "not-there")
    assert done.returncode == 3, "there is no such store"
    imported = packages(done.stderr)
    assert {"redis", "typer", "watchbill"} <= imported
    assert imported & NOT_NEEDED <= {"rich", "typer"}


def test_garbage_is_collected_again_and_an_agent_can_turn_on_the_metrics_of_redis() -> None:
    done = python("-c", LATER)
    assert (done.returncode, done.stderr) == (0, "")


def test_garbage_of_a_command_is_collected_again_once_it_works() -> None:
    done = python("-c", WORKS)
    assert (done.returncode, done.stderr) == (7, "")
