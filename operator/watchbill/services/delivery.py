"""The destination of one task's result, in the flat form of a service's tasks and heartbeats. Pure.

A secret may be written out: then it stays in this process, and what is stored names it only. Whoever has not got it
can't deliver, so a program that gives tasks to services elsewhere writes `env:NAME` instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from enum import StrEnum
from typing import Any, Final

from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from watchbill.api.delivery import ENV_REFERENCE, Destination
from watchbill.errors import InvalidInput, Problem
from watchbill.plan import texts
from watchbill.services.known import Known, problems


class DeliveryChannel(StrEnum):
    """The way by which a result is sent."""

    LOG = "log"
    """The service's log, which has every result."""
    WEBHOOK = "webhook"
    TELEGRAM = "telegram"
    TEAMS = "teams"
    EMAIL = "email"
    REDIS_STREAM = "redis_stream"
    """The stream of results, which has every result; or another, if `redis_stream` names one."""


_TAKEN: Final = {
    "task_stream": ("which takes tasks: a result on it brings none", "Name another stream."),
    "result_stream": ("which gets each result anyway", "Leave redis_stream out, or name another stream."),
}
"""Field of a service's configuration → why no delivery may name its stream, and the way to mend that."""


class DeliveryConfig(Known):
    """A channel, and what it needs to know. What other channels need is ignored.

    Tokens, signing keys and URLs of Teams are secrets: `env:NAME` is the variable of the service's environment; any
    other text is the secret itself, and works only in the process that has made this.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    channel: DeliveryChannel = DeliveryChannel.LOG
    webhook_url: str | None = Field(default=None, repr=False)
    webhook_signing_key: str | None = Field(
        default=None, repr=False, description="Signs each request as Standard Webhooks has it."
    )
    telegram_bot_token: str | None = Field(default=None, repr=False)
    telegram_chat_id: int | str | None = None
    teams_webhook_url: str | None = Field(
        default=None, repr=False, description="The URL of a Workflows webhook; connectors' URLs are retired."
    )
    email_recipients: list[str] = Field(default_factory=list)
    email_subject: str = Field(default="", description="Default: the agent's name and how its task ended.")
    redis_stream: str | None = Field(
        default=None,
        description="A stream other than the service's own two. Default: its stream of results, which needs no name.",
    )

    @field_validator("email_recipients", "email_subject", mode="before")
    @classmethod
    def _absent(cls, given: Any, info: ValidationInfo) -> Any:
        return given if given is not None else [] if info.field_name == "email_recipients" else ""

    @model_validator(mode="after")
    def _complete(self) -> DeliveryConfig:
        for name in _NEEDS.get(self.channel, ()):
            if not getattr(self, name):
                raise ValueError(f"channel {self.channel.value} needs {name}. Give it, or choose another channel")
        return self

    def destinations(self, kept: MutableMapping[str, str] | None, streams: Mapping[str, str]) -> list[Destination]:
        """The destinations that say the same: one, or none where the result goes there anyway.

        `kept` gets the secrets that are written out, by the names that the destination has for them; None: there may
        be none. `streams` are the service's own, by field of its configuration: task_stream, result_stream. Raises
        InvalidInput.
        """
        if self.channel is DeliveryChannel.REDIS_STREAM:
            for field, stream in streams.items():
                if self.redis_stream == stream:
                    why, fix = _TAKEN[field]
                    reason = f"{stream!r} is the service's {field}, {why}"
                    raise InvalidInput(Problem(reason, fix, path="delivery.redis_stream"))
        spec = self._spec(kept)
        if spec is None:
            return []
        try:
            return [Destination.model_validate({"name": self.channel.value.replace("_", "-"), **spec})]
        except ValidationError as error:
            raise InvalidInput([replace(found, path=_ours(found.path)) for found in problems(error)]) from None

    def _spec(self, kept: MutableMapping[str, str] | None) -> dict[str, Any] | None:
        match self.channel:
            case DeliveryChannel.WEBHOOK:
                url = self.webhook_url or ""
                if "@" in url.partition("://")[2].partition("/")[0]:
                    url = _reference("webhook_url", url, kept)
                webhook = {"url": url}
                if self.webhook_signing_key:
                    webhook["signingKey"] = _reference("webhook_signing_key", self.webhook_signing_key, kept)
                return {"webhook": webhook}
            case DeliveryChannel.TELEGRAM:
                token = _reference("telegram_bot_token", self.telegram_bot_token or "", kept)
                return {"telegram": {"botToken": token, "chatId": str(self.telegram_chat_id)}}
            case DeliveryChannel.TEAMS:
                return {"teams": {"url": _reference("teams_webhook_url", self.teams_webhook_url or "", kept)}}
            case DeliveryChannel.EMAIL:
                return {"email": {"to": list(self.email_recipients), "subject": self.email_subject}}
            case DeliveryChannel.REDIS_STREAM if self.redis_stream:
                return {"redisStream": {"stream": self.redis_stream}}
            case _:
                return None


_NEEDS: Final = {
    DeliveryChannel.WEBHOOK: ("webhook_url",),
    DeliveryChannel.TELEGRAM: ("telegram_bot_token", "telegram_chat_id"),
    DeliveryChannel.TEAMS: ("teams_webhook_url",),
    DeliveryChannel.EMAIL: ("email_recipients",),
}


_FIELDS: Final = {
    "webhook.url": "webhook_url",
    "webhook.signingKey": "webhook_signing_key",
    "telegram.botToken": "telegram_bot_token",
    "telegram.chatId": "telegram_chat_id",
    "teams.url": "teams_webhook_url",
    "email.to": "email_recipients",
    "email.subject": "email_subject",
    "redisStream.stream": "redis_stream",
}
"""Place in a destination → the field that says it here."""


def _ours(path: str) -> str:
    """Returns the field for a place in a destination."""
    for theirs, field in _FIELDS.items():
        if path.startswith(theirs):
            return f"delivery.{field}{path.removeprefix(theirs)}"
    return "delivery"


def _reference(field: str, value: str, kept: MutableMapping[str, str] | None) -> str:
    """Returns the text that is stored in place of a secret: the name of a variable."""
    if ENV_REFERENCE.fullmatch(value):
        return value
    if found := list(texts.problems({f"delivery.{field}": value})):
        raise InvalidInput(found)
    if kept is None:
        reason = f"{field} is written out, and the services that deliver are other processes"
        fix = "Give env:NAME, and set that variable in the environment of the services."
        raise InvalidInput(Problem(reason, fix, path=f"delivery.{field}"))
    # The same in each process that has the secret, so that services with equal heartbeats agree.
    name = f"WATCHBILL_KEPT_{hashlib.sha256(value.encode()).hexdigest()[:16].upper()}"
    kept[name] = value
    return f"env:{name}"
