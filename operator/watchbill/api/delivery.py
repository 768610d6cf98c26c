"""Destinations: where the results of a crew's work are sent, and by which channel. Pure.

A value that may hold a secret is never written out. It is given as `env:NAME`, a variable of the worker's environment,
or by the field's twin `…From`, a key of a Secret. So a destination can be stored, shown and logged as it is.

The list of outcomes is not called `on`, because Kubernetes' tools read a key `on` as `true`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, get_args

from pydantic import ConfigDict, Field, model_validator

from watchbill.api.meta import NAME_MAX, SET, ResourceName, Strict, first_repeated
from watchbill.api.problems import Finding, Hint, raise_findings
from watchbill.errors import sentence

DESTINATIONS_MAX: Final = 16
"""Destinations of one crew or heartbeat."""
RECIPIENTS_MAX: Final = 50
VALUE_MAX: Final = 2048

CHANNELS: Final = ("log", "webhook", "telegram", "teams", "email", "redisStream", "apprise")
"""The names of the channels, as a destination writes them."""

ENV_REFERENCE: Final = re.compile("env:[A-Za-z_][A-Za-z0-9_]*")
"""A secret's value is that of this variable."""
_URL: Final = re.compile("https?://[^/?#@ ]+([/?#].*)?")
ADDRESS: Final = re.compile("[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9][A-Za-z0-9.-]*")
"""An address of mail, as browsers take it."""
_REDIS_STREAM: Final = "[A-Za-z0-9][A-Za-z0-9._:-]*"
_OWN: Final = ("wb:", "crew:", "tt:")
_TAKEN: Final = "keys that begin with wb:, crew: or tt: are Watchbill's own"
_TAKEN_FIX: Final = "Choose another name"


class SecretKeyRef(Strict):
    """One key of a Secret in the crew's namespace."""

    name: str = Field(
        max_length=NAME_MAX,
        pattern="^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$",
        description="Name of the Secret.",
    )
    # No key of a Secret is `.` or `..`, or begins with `..`: it is the name of a file.
    key: str = Field(
        max_length=NAME_MAX, pattern="^[.]?[-_A-Za-z0-9][-._A-Za-z0-9]*$", description="Key within the Secret."
    )


class SecretSource(Strict):
    """The place of a secret value."""

    secret_key_ref: SecretKeyRef = Field(description="A key of a Secret in the crew's namespace.")


class Secret(NamedTuple):
    """A value of a channel that is read when it is used: exactly one of the two is set."""

    text: str | None
    """`env:NAME`; for the URL of a webhook also the URL itself."""
    key: SecretKeyRef | None

    def __str__(self) -> str:
        """The place of the value, for messages. It never shows the value itself."""
        if self.key is not None:
            return f"key {self.key.key!r} of Secret {self.key.name!r}"
        if self.text is not None and ENV_REFERENCE.fullmatch(self.text):
            return f"variable {self.text.removeprefix('env:')}"
        return "the destination's own text"


class _Pair(NamedTuple):
    """A field that may hold a secret, and its twin `…From`."""

    field: str
    required: bool = True
    url: bool = False
    """It may be a URL without user and password, written out."""

    @property
    def twin(self) -> str:
        return f"{self.field}From"

    def fits(self, value: str) -> bool:
        return bool(ENV_REFERENCE.fullmatch(value) or (self.url and _URL.fullmatch(value)))

    @property
    def reason(self) -> str:
        if self.url:
            return f"{self.field} is neither a URL (http:// or https://, without user and password) nor env:NAME"
        return f"{self.field} is written out, where everybody who may read the crew would see it"

    @property
    def fix(self) -> str:
        place = f"env:NAME for a variable of the workers' environment, or {self.twin}: {{secretKeyRef: {{name, key}}}}"
        return f"Write a URL, {place}" if self.url else f"Write {place}"

    def rules(self) -> Iterator[dict[str, Any]]:
        """CEL: the same as `_Channel._broken_rules`. No pattern, because the API server quotes what fails one."""
        field, twin = self.field, self.twin
        yield {
            "rule": f"!has(self.{field}) || !has(self.{twin})",
            "message": f"{field} and {twin} are both given. Remove one of the two",
            "fieldPath": f".{twin}",
        }
        if self.required:
            yield {
                "rule": f"has(self.{field}) || has(self.{twin})",
                "message": f"neither {field} nor {twin} is given. {self.fix}",
                "fieldPath": f".{field}",
            }
        forms = f"{ENV_REFERENCE.pattern}|{_URL.pattern}" if self.url else ENV_REFERENCE.pattern
        yield {
            "rule": f"!has(self.{field}) || self.{field}.matches('^({forms})$')",
            "message": f"{sentence(self.reason)} {self.fix}",
            "fieldPath": f".{field}",
        }


def _config(*pairs: _Pair, more: Sequence[Mapping[str, Any]] = ()) -> ConfigDict:
    rules: list[Any] = [*(rule for pair in pairs for rule in pair.rules()), *more]
    # An error would quote the value, which may be a secret that somebody has written out.
    return ConfigDict(hide_input_in_errors=True, json_schema_extra={"x-kubernetes-validations": rules})


class _Channel(Strict):
    """A channel of a destination."""

    _pairs: ClassVar[tuple[_Pair, ...]] = ()

    @model_validator(mode="after")
    def _given_once(self) -> _Channel:
        raise_findings(type(self), self._broken_rules())
        return self

    def _broken_rules(self) -> Iterator[Finding]:
        for pair in self._pairs:
            secret = self._secret(pair)
            if secret.text is not None and secret.key is not None:
                reason = f"{pair.field} and {pair.twin} are both given"
                yield Finding((pair.twin,), reason, "Remove one of the two.")
            elif pair.required and secret == (None, None):
                yield Finding((pair.field,), f"neither {pair.field} nor {pair.twin} is given", sentence(pair.fix))
            if secret.text is not None and not pair.fits(secret.text):
                yield Finding((pair.field,), pair.reason, sentence(pair.fix))

    def secrets(self) -> dict[str, Secret]:
        """Field → its value's place, of the fields that may hold a secret and are given."""
        found = {pair.field: self._secret(pair) for pair in self._pairs}
        return {field: secret for field, secret in found.items() if secret != (None, None)}

    def _secret(self, pair: _Pair) -> Secret:
        by_alias = {field.alias: name for name, field in type(self).model_fields.items()}
        source: SecretSource | None = getattr(self, by_alias[pair.twin])
        return Secret(getattr(self, by_alias[pair.field]), source.secret_key_ref if source else None)


def _text(description: str) -> Any:
    return Field(default=None, max_length=VALUE_MAX, description=description)


def _from(description: str) -> Any:
    return Field(default=None, description=description)


class Log(_Channel):
    """The log of the process that delivers."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None = Field(
        default=None, description="Level of the line. Default: INFO for a success, WARNING for a failure."
    )


_NO_KEY: Final = "previousSigningKey means something beside signingKey only"
_NO_KEY_FIX: Final = "Add signingKey or signingKeyFrom, or remove the previous one"
_KEY_BEFORE: Final = {
    "rule": "!(has(self.previousSigningKey) || has(self.previousSigningKeyFrom)) "
    "|| has(self.signingKey) || has(self.signingKeyFrom)",
    "message": f"{_NO_KEY}. {_NO_KEY_FIX}",
    "fieldPath": ".signingKey",
}


class Webhook(_Channel):
    """An HTTP endpoint that takes the result as JSON, signed as Standard Webhooks has it."""

    _pairs = (_Pair("url", url=True), _Pair("signingKey", False), _Pair("previousSigningKey", False))
    model_config = _config(*_pairs, more=[_KEY_BEFORE])

    url: str | None = _text("URL that the result is sent to, or env:NAME. A URL that holds a secret belongs into one.")
    url_from: SecretSource | None = _from("The Secret that holds the URL, in place of url.")
    signing_key: str | None = _text(
        "env:NAME of the key that signs each request: whsec_ and 24 bytes or more in base64."
    )
    signing_key_from: SecretSource | None = _from("The Secret that holds the signing key, in place of signingKey.")
    previous_signing_key: str | None = _text(
        "env:NAME of the key before signingKey. Requests are signed with both, until receivers know the new one."
    )
    previous_signing_key_from: SecretSource | None = _from(
        "The Secret that holds the previous signing key, in place of previousSigningKey."
    )

    def _broken_rules(self) -> Iterator[Finding]:
        yield from super()._broken_rules()
        given = self.secrets()
        if "previousSigningKey" in given and "signingKey" not in given:
            yield Finding(("signingKey",), _NO_KEY, f"{_NO_KEY_FIX}.")


class Telegram(_Channel):
    """A chat of Telegram, which a bot writes to."""

    _pairs = (_Pair("botToken"),)
    model_config = _config(*_pairs)

    bot_token: str | None = _text("env:NAME of the bot's token.")
    bot_token_from: SecretSource | None = _from("The Secret that holds the bot's token, in place of botToken.")
    chat_id: Annotated[str, Hint("Write the chat's number in quotes, or @ and the name of a channel.")] = Field(
        max_length=64,
        pattern="^(-?[0-9]+|@[A-Za-z0-9_]+)$",
        description="Chat: its number as text, or @ and the name of a channel.",
    )


class Teams(_Channel):
    """A channel or chat of Microsoft Teams, by a workflow (Power Automate) that posts what it is sent."""

    _pairs = (_Pair("url"),)
    model_config = _config(*_pairs)

    url: str | None = _text("env:NAME of the workflow's URL. The URL is a secret: who knows it can post.")
    url_from: SecretSource | None = _from("The Secret that holds the workflow's whole URL, in place of url.")


class Email(_Channel):
    """Mail by the server that WATCHBILL_SMTP_URL names, from the address WATCHBILL_SMTP_FROM."""

    to: Annotated[
        list[Annotated[str, Field(max_length=254, pattern=f"^{ADDRESS.pattern}$")]],
        Hint("Write an address such as ops@example.com, without a name."),
    ] = Field(min_length=1, max_length=RECIPIENTS_MAX, description="Addresses.", json_schema_extra=SET)
    subject: Annotated[str, Hint("Write one line.")] = Field(
        default="",
        max_length=256,
        pattern="^[^\r\n]*$",
        description="Subject. Default: the agent's name and how its task ended.",
    )

    @model_validator(mode="after")
    def _each_once(self) -> Email:
        if again := first_repeated(self.to):
            position, address = again
            raise_findings(type(self), [Finding(("to", position), f"{address!r} is listed twice", "Remove one.")])
        return self


class RedisStream(_Channel):
    """A stream in the crew's store, for programs that read it."""

    model_config = _config(
        more=[
            {
                "rule": f"!self.stream.matches('^({'|'.join(_OWN)})')",
                "message": f"{_TAKEN}. {_TAKEN_FIX}",
                "fieldPath": ".stream",
            }
        ]
    )

    stream: Annotated[str, Hint("Use letters, digits, dots, dashes, underscores and colons.")] = Field(
        max_length=NAME_MAX, pattern=f"^{_REDIS_STREAM}$", description="Key of the stream."
    )
    max_length: int = Field(
        default=10_000,
        ge=1,
        le=10_000_000,
        description="Entries that are kept, about so many; the oldest are removed.",
    )

    @model_validator(mode="after")
    def _not_ours(self) -> RedisStream:
        if self.stream.startswith(_OWN):
            raise_findings(type(self), [Finding(("stream",), _TAKEN, f"{_TAKEN_FIX}.")])
        return self


class Apprise(_Channel):
    """Any service that the library apprise knows, if WATCHBILL_DELIVERY_ALLOW of the workers has the word apprise. It
    can't say why a service refused."""

    _pairs = (_Pair("url"),)
    model_config = _config(*_pairs)

    url: str | None = _text("env:NAME of the service's URL as apprise has it, as in ntfys://host/topic.")
    url_from: SecretSource | None = _from("The Secret that holds that URL, in place of url.")


_ONE: Final = f"[{', '.join(f'has(self.{channel})' for channel in CHANNELS)}].exists_one(given, given)"
_NAMED: Final = ", ".join(CHANNELS[:-1]) + f" and {CHANNELS[-1]}"


class Destination(Strict):
    """A place that results are sent to: a name, the outcomes that are of interest, and one channel."""

    model_config = ConfigDict(
        hide_input_in_errors=True,
        json_schema_extra={
            "x-kubernetes-validations": [
                {"rule": _ONE, "message": f"give exactly one of {_NAMED}. Remove the others, or add one"}
            ]
        },
    )

    name: ResourceName = Field(description="Name of the destination, unique in its list. Submissions cite it.")
    outcomes: list[Literal["Success", "Failure"]] = Field(
        default=["Success", "Failure"],
        min_length=1,
        max_length=2,
        description="Ends of a task or run that are delivered. Default: both.",
        json_schema_extra=SET,
    )
    log: Log | None = Field(default=None, description="Write a line to the log of the worker.")
    webhook: Webhook | None = Field(default=None, description="Send JSON to an HTTP endpoint.")
    telegram: Telegram | None = Field(default=None, description="Write to a chat of Telegram.")
    teams: Teams | None = Field(default=None, description="Post a card to Microsoft Teams.")
    email: Email | None = Field(default=None, description="Send mail.")
    redis_stream: RedisStream | None = Field(default=None, description="Add an entry to a stream in the crew's store.")
    apprise: Apprise | None = Field(
        default=None,
        description="Notify by any service that apprise knows, where WATCHBILL_DELIVERY_ALLOW has the word apprise.",
    )

    @model_validator(mode="after")
    def _one_channel(self) -> Destination:
        raise_findings(type(self), self._broken_rules())
        return self

    def _broken_rules(self) -> Iterator[Finding]:
        given = [channel for channel, _ in self._given()]
        if len(given) != 1:
            reason = f"{' and '.join(given)} are given" if given else "no channel is given"
            yield Finding((given[-1],) if given else (), reason, f"Give exactly one of {_NAMED}.")
        if again := first_repeated(self.outcomes):
            position, outcome = again
            yield Finding(("outcomes", position), f"{outcome!r} is listed twice", "Remove one of the two.")

    def _given(self) -> Iterator[tuple[str, Any]]:
        for name, field in type(self).model_fields.items():
            if field.alias in CHANNELS and (value := getattr(self, name)) is not None:
                yield field.alias, value

    @property
    def channel(self) -> str:
        """The channel's name, one of CHANNELS."""
        return next(self._given())[0]

    @property
    def spec(self) -> Log | Webhook | Telegram | Teams | Email | RedisStream | Apprise:
        """The settings of the channel."""
        spec: Log | Webhook | Telegram | Teams | Email | RedisStream | Apprise = next(self._given())[1]
        return spec

    def wants(self, *, success: bool) -> bool:
        """Returns whether a result of this kind is delivered."""
        return ("Success" if success else "Failure") in self.outcomes

    def secret_keys(self) -> list[SecretKeyRef]:
        """The keys of Secrets that must be mounted where the destination is served, each once."""
        keys = (secret.key for secret in self.spec.secrets().values())
        return list(dict.fromkeys(key for key in keys if key is not None))


def repeated(destinations: list[Destination]) -> Iterator[Finding]:
    """Finds destinations of one list that have the same name. `by_key("name")` says it to the API server."""
    first: dict[str, int] = {}
    for i, destination in enumerate(destinations):
        if destination.name in first:
            reason = f"two destinations are called {destination.name!r}: [{first[destination.name]}] and [{i}]"
            yield Finding((i, "name"), reason, "Give each destination a name of its own.")
        first.setdefault(destination.name, i)


def secret_sources() -> dict[str, list[str]]:
    """Channel → its fields that name a key of a Secret."""
    found = {}
    for field in Destination.model_fields.values():
        if field.alias in CHANNELS:
            model = next(
                arg for arg in get_args(field.annotation) if isinstance(arg, type) and issubclass(arg, _Channel)
            )
            if model._pairs:
                found[field.alias] = [pair.twin for pair in model._pairs]
    return found
