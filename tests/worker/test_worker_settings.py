"""What `python -m watchbill.worker` says of settings that it can't use: which, how to mend them, and no password."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "WATCHBILL_CREW is missing. Set it to namespace/name."),
        ({"CREW": "notes"}, "WATCHBILL_CREW: 'notes' can't be used. Set it to namespace/name."),
        ({"CREW": "a/b", "REDIS_URL": ""}, "WATCHBILL_REDIS_URL is missing. Set it to the URL of the store."),
        ({"CREW": "a/b", "LOG_LEVEL": "loud"}, "WATCHBILL_LOG_LEVEL: 'loud' can't be used: "),
    ],
)
def test_a_setting_that_is_missing_or_wrong_is_named_without_a_password(given: dict[str, str], said: str) -> None:
    settings = {"REDIS_URL": "redis+sentinel://me:SECRET1@h/s?password=SECRET2&sentinel_password=SECRET3"} | given
    own = {name: value for name, value in os.environ.items() if not name.startswith("WATCHBILL_")}
    environment = own | {f"WATCHBILL_{name}": value for name, value in settings.items() if value}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "watchbill.worker"], env=environment, capture_output=True, text=True, timeout=180
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {said}")
    assert len(done.stderr.splitlines()) == 1
    assert "SECRET" not in done.stderr
