"""What importing the client costs: nothing that only a worker, an operator or a command line needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

OF_TRACING = ("opentelemetry.exporter", "opentelemetry.sdk.trace")
"""redis-py loads the rest of OpenTelemetry, where it is installed."""
HEAVY = (
    "aiohttp",
    "apprise",
    "apscheduler",
    "kopf",
    "kubernetes",
    "openai",
    *OF_TRACING,
    "prometheus_client",
    "pydantic_ai",
    "pydantic_settings",
    "rich",
    "typer",
    "watchbill.agents",
    "watchbill.metrics",
    "watchbill.local",
    "watchbill.settings",
    "watchbill.worker",
    "yaml",
)


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["watchbill.client", "watchbill.services"])
def test_the_client_is_light_to_import(module: str) -> None:
    loaded = loaded_by(f"import {module}")

    assert "redis.asyncio" in loaded
    assert sorted(name for name in HEAVY if name in loaded) == []


def test_the_names_that_must_stay_away_are_names_of_modules() -> None:
    # a misspelt name above would never be found anywhere
    heavy = "watchbill.local, watchbill.scheduler, watchbill.worker.health, watchbill.settings"
    loaded = loaded_by(f"import {heavy}, watchbill.cli.steps, watchbill.cli.app, yaml")

    assert {name for name in HEAVY if name not in loaded} <= {
        "apprise",
        "kopf",
        "kubernetes",
        "openai",
        "pydantic_ai",
        *OF_TRACING,
    }


def test_a_worker_that_delivers_nothing_starts_without_what_sends() -> None:
    loaded = loaded_by("import watchbill.worker.__main__")

    assert "watchbill.worker.shift" in loaded
    away = ("aiohttp", *OF_TRACING, "watchbill.delivery", "watchbill.worker.health")
    assert sorted(name for name in away if name in loaded) == []
