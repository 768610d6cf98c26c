"""A worker's start: it imports little, and what it puts off can be had later."""

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


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    without = {name: value for name, value in os.environ.items() if not name.startswith(("WATCHBILL_", "OTEL_"))}
    return subprocess.run([sys.executable, *arguments], env=without, capture_output=True, text=True, timeout=120)


def test_a_worker_imports_at_its_start_nothing_of_what_only_some_need() -> None:
    done = python("-X", "importtime", "-m", "watchbill.worker")
    assert done.returncode == 2, "it was told of no crew"
    listed = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE)) - IN_VAIN
    imported = {name.partition(".")[0] for name in listed}
    assert {"redis", "uvloop", "watchbill"} <= imported
    assert imported & NOT_NEEDED == set()


def test_garbage_is_collected_again_and_an_agent_can_turn_on_the_metrics_of_redis() -> None:
    done = python("-c", LATER)
    assert (done.returncode, done.stderr) == (0, "")
