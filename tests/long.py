"""The test files that take longest, be it by many tests or by a few that wait. `pytest --durations=0` tells them."""

from __future__ import annotations

from typing import Final

FILES: Final = frozenset(
    {
        "test_cli_about.py",
        "test_cli_control.py",
        "test_cli_input.py",
        "test_cli_run.py",
        "test_cli_store.py",
        "test_core.py",
        "test_durability.py",
        "test_faults.py",
        "test_lost_writes.py",
        "test_queue_deaths.py",
        "test_queue_machine.py",
        "test_tls_and_acl.py",
        "test_worker_clock.py",
        "test_worker_processes.py",
        "test_worker_zombie.py",
    }
)
