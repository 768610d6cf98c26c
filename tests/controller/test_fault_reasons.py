"""The reasons that a metric gives for failed reconciliations."""

from __future__ import annotations

import pytest
import redis.exceptions

from watchbill import errors
from watchbill.controller import faults

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.StaleObject("older"), "stale-object"),
        (errors.NotLeader("another leads"), "not-leader"),
        (errors.CrewGone("replaced"), "crew-gone"),
        (errors.KubernetesForbids("no right", 403), "api-server-forbids"),
        (errors.KubernetesRefuses("no", 422), "api-server-refuses"),
        (errors.KubernetesUnavailable("down"), "api-server-away"),
        (errors.StoreRefuses("no right"), "store-refuses"),
        (errors.StoreUnavailable("away"), "store-away"),
        (redis.exceptions.ConnectionError(), "store-away"),
        (redis.exceptions.TimeoutError(), "store-away"),
        (redis.exceptions.ResponseError("OOM"), "store-refuses"),
        (errors.QueueFull("full"), "refused"),
        (KeyError("metadata"), "fault"),
    ],
)
def test_each_error_has_one_of_a_few_reasons(error: Exception, reason: str) -> None:
    assert faults.reason(error) == reason
