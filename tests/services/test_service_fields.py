"""Fields that no model of a service has are refused by name, and the one that was meant is named."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from watchbill.services import AgentServiceConfig, AgentTask, DeliveryConfig, HeartbeatConfig

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("model", "given", "wrong", "meant"),
    [
        (AgentTask, {"agent_name": "Bot", "prompt": "x", "method": "shout"}, "method", "method_name"),
        (
            DeliveryConfig,
            {"channel": "webhook", "webhok_url": "https://SECRET@x"},
            "webhok_url",
            "webhook_url",
        ),
        (HeartbeatConfig, {"agent_name": "Bot", "interval_second": 5}, "interval_second", "interval_seconds"),
        (AgentServiceConfig, {"max_worker": 3}, "max_worker", "max_workers"),
        (AgentServiceConfig, {"heartbeats": [{"agent_name": "B", "cron": "* * * * *"}]}, "cron", ""),
    ],
)
def test_an_unknown_field_is_refused(model: type[BaseModel], given: dict[str, Any], wrong: str, meant: str) -> None:
    with pytest.raises(ValidationError) as caught:
        model(**given)
    details = {error["loc"][-1]: error for error in caught.value.errors()}
    assert f"has no field {wrong!r}" in details[wrong]["msg"]
    assert (f"Write {meant!r}" if meant else "Use one of: ") in details[wrong]["msg"]
    assert "SECRET" not in f"{caught.value} {caught.value.errors()}"
