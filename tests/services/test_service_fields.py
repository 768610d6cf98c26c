"""What comes into a service and out of a bot: fields that no model has are refused, answers are kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from watchbill.errors import InvalidInput
from watchbill.services import AgentServiceConfig, AgentTask, DeliveryChannel, DeliveryConfig, HeartbeatConfig
from watchbill.services.bots import answer_of

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


@pytest.mark.parametrize("field", ["results_kept", "task_timeout_seconds", "max_attempts"])
def test_a_number_that_no_store_and_no_clock_can_take_is_refused(field: str) -> None:
    with pytest.raises(ValidationError, match=f"{field}\n.*less than or equal to"):
        AgentServiceConfig(**{field: 10**12})


def test_a_secret_that_is_no_text_is_refused_by_its_field() -> None:
    chat = DeliveryConfig(channel=DeliveryChannel.TELEGRAM, telegram_bot_token="half: \ud800", telegram_chat_id=1)
    with pytest.raises(InvalidInput, match=r"delivery\.telegram_bot_token: this is no text"):
        chat.destinations({}, {})


def test_a_service_whose_results_would_be_its_tasks_is_refused() -> None:
    with pytest.raises(ValidationError, match="both 'one', and a result brings no task"):
        AgentServiceConfig(task_stream="one", result_stream="one")


@pytest.mark.parametrize("answer", ["text", {"output": 1}, [1], None, 5])
def test_a_plain_answer_is_kept_as_it_is(answer: object) -> None:
    assert answer_of(answer) == answer


def test_of_a_response_object_its_text_is_kept_and_a_model_is_kept_whole() -> None:
    class Report(BaseModel):
        output: str = "o"
        score: int = 1

    class Message(Report):
        @property
        def to_text(self) -> str:
            return "said"

    assert answer_of(Report()) == Report()
    assert answer_of(Message()) == "said"
    assert answer_of(SimpleNamespace(to_text=lambda: "t", output="o")) == "t"
    assert answer_of(SimpleNamespace(output=None, response={"a": 1})) == {"a": 1}


def test_a_delivery_without_recipients_or_subject_may_say_null() -> None:
    given = DeliveryConfig.model_validate({"channel": "log", "email_recipients": None, "email_subject": None})
    assert given == DeliveryConfig()
