"""Model names → models of pydantic-ai, over HTTP clients that the tasks of one event loop share.

A connection belongs to the event loop that opened it, and a client per task would open a connection per task. So there
is one client per provider, server and loop, until `aclose`. No request is made here.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

from watchbill.agents import key_files, model_hosts
from watchbill.agents.importing import hiding, suggest
from watchbill.agents.model_errors import ErrorInside, error_inside
from watchbill.errors import Problem, UserActionRequired, needed

with needed("LLMAgent", "llm"):
    from pydantic_ai.exceptions import UserError
    from pydantic_ai.models import Model, infer_model, known_model_names, parse_model_id
    from pydantic_ai.models.test import TestModel
    from pydantic_ai.providers import Provider, infer_provider, infer_provider_class

TEST: Final = "test"
"""The model that needs no key and no network, and always returns the same answer."""

_NO_KEY: Final = "not-needed"
"""The key for a server of the user when the environment has none: libraries insist on a key, such servers don't."""

OPENAI: Final = "api.openai.com"
_NEVER_FINISH: Final = "snowflake:"
"""A provider that never says how an answer has ended."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A model over a provider's client. `name`: the provider's."""

    name: str
    provider: Provider[Any]
    model: Model


@dataclass(frozen=True, slots=True)
class _Shared:
    """All that the tasks of one event loop share."""

    providers: dict[tuple[str, str | None, str | None], Provider[Any]] = field(default_factory=dict)
    """By name, server, and key of a file."""
    models: dict[tuple[str, str | None], _Made] = field(default_factory=dict)
    """By name and server."""


_shared: dict[asyncio.AbstractEventLoop, _Shared] = {}


def check(model: str, base_url: str | None) -> list[Problem]:
    """Problems with a model's name and server that can be found without a request or a key."""
    if model == TEST:
        return []
    provider, name = parse_model_id(model)
    if not provider or not name:
        example = f"openai:{model.strip(':')}" if not provider and model else "openai:gpt-5-mini"
        return [Problem(f"model {model!r} is not of the form provider:name", f"Write it as in {example}.", "model")]
    try:
        cls = infer_provider_class(provider)
    except ImportError as error:
        if hidden := hiding(error):
            return [Problem(f"model {model!r}: {hidden[0]}", hidden[1], "model")]
        package = re.search(r"pip install [\"']?([^\s\"'`]+)", str(error))
        fix = f"Install it: pip install '{package[1]}'" if package else str(error)
        return [Problem(f"model {model!r}: the library of provider {provider!r} is not installed", fix, "model")]
    except (ValueError, UserError):
        known = sorted({full.partition(":")[0] for full in known_model_names() if ":" in full})
        reason = f"model {model!r}: there is no provider {provider!r}{suggest(provider, known)}"
        return [Problem(reason, "Use a provider of pydantic-ai: https://ai.pydantic.dev/models", "model")]
    return _check_server(cls, provider, base_url) if base_url else []


def _check_server(cls: type[Provider[Any]], provider: str, base_url: str) -> list[Problem]:
    url = urlsplit(base_url)
    if "@" in url.netloc:
        fix = "Remove it, and put the key into the worker's environment."
        return [Problem("baseURL has a user or password in it", fix, "baseURL")]
    if url.scheme not in {"http", "https"} or not url.hostname:
        return [Problem(f"{base_url!r} is not an http or https URL", "Write it as in http://127.0.0.1/v1.", "baseURL")]
    if "base_url" not in inspect.signature(cls).parameters:
        reason = f"provider {provider!r} has a server of its own and takes no baseURL"
        return [Problem(reason, "Remove baseURL, or use the provider openai with it.", "baseURL")]
    return []


def ready(model: str, base_url: str | None) -> list[Problem]:
    """Problems with the environment: the key of the model's provider is missing, or its file. Makes no request."""
    if model == TEST or check(model, base_url):  # what `check` finds, it tells
        return []
    provider = parse_model_id(model)[0] or ""
    if found := [] if without_key(model, base_url) else key_files.check(provider):
        return [replace(each, reason=f"model {model!r}: {each.reason}", path="model") for each in found]
    if base_url:
        return []
    key = key_files.variable(provider)
    if not server(model, None) and not os.environ.get(key, "set").strip():
        return [_unset(model, key)]
    try:
        _made(provider, None, key_files.read(provider))
    except UserError as error:
        return [_lacks(model, error)]
    except Exception as error:  # whatever its library finds missing
        reason = f"model {model!r}: its provider can't be used: {type(error).__name__}: {error}"
        return [Problem(reason, "Give the worker's environment what it needs.", "model")]
    return []


def server(model: str, base_url: str | None) -> str | None:
    """The URL of the model's server; None for its provider's own."""
    return base_url or os.environ.get(f"{key_files.prefix(model.partition(':')[0])}_BASE_URL") or None


def without_key(model: str, base_url: str | None) -> str | None:
    """The host of the model's server, if it may not have a key of the environment."""
    host = model_hosts.host_of(base_url) if base_url else None
    if host is None:
        return None
    cls = infer_provider_class(parse_model_id(model)[0] or "")
    return None if model_hosts.may_have_key(host, lambda: _own_host(cls), os.environ) else host


def build(model: str, base_url: str | None) -> Model:
    """The model, ready to be asked on the running event loop. Raises UserActionRequired."""
    if model == TEST:
        # By default it calls every tool with made-up arguments, which most tools rightly refuse.
        return TestModel(call_tools=[])
    models, server_url = _of_loop().models, base_url or None
    made = models.get((model, server_url))
    if made is None or _provider(made.name, server_url) is not made.provider:  # its key is another one now
        if problems := check(model, base_url):
            raise UserActionRequired("; ".join(problem.said for problem in problems))
        made = models[model, server_url] = _make(model, server_url)
    return made.model


def _make(model: str, base_url: str | None) -> _Made:
    full = model
    if model.startswith("openai:") and model_hosts.host_of(server(model, base_url) or "") not in (None, OPENAI):
        # Servers that speak OpenAI's protocol speak chat completions; few know its newer API.
        full = "openai-chat" + model.removeprefix("openai")
    provider: Provider[Any]
    name = ""

    def connect(asked: str) -> Provider[Any]:
        nonlocal name, provider
        name, provider = asked, _provider(asked, base_url)
        return provider

    try:
        made = infer_model(full, provider_factory=connect)
    except UserError as error:
        raise UserActionRequired(_lacks(full, error).said) from None
    if not full.startswith(_NEVER_FINISH):
        # By default a stream that breaks off counts as one that ended, for servers that never say so.
        profile: Any = {**made.profile, "openai_chat_streaming_requires_finish_reason": True}
        made.profile = profile
    return _Made(name, provider, made)


def _lacks(model: str, error: UserError) -> Problem:
    if variable := re.search(r"`([A-Z][A-Z0-9_]*_[A-Z0-9_]+)`", str(error)):
        return _unset(model, variable[1])
    return Problem(f"model {model!r}: its provider can't be used", str(error), "model")


def _unset(model: str, variable: str) -> Problem:
    reason = f"model {model!r}: the environment variable {variable} is not set"
    return Problem(reason, "Set it where the worker runs, or give the agent a baseURL that needs no key.", "model")


async def aclose() -> None:
    """Close the clients of the running event loop. The next task makes new ones."""
    if shared := _shared.pop(asyncio.get_running_loop(), None):
        for provider in shared.providers.values():
            async with provider:  # leaving it closes its client
                pass


def _of_loop() -> _Shared:
    for old in [known for known in _shared if known.is_closed()]:
        _shared.pop(old, None)
    return _shared.setdefault(asyncio.get_running_loop(), _Shared())


def _provider(name: str, base_url: str | None) -> Provider[Any]:
    shared = _of_loop().providers
    key = None if without_key(f"{name}:any", base_url) else key_files.read(name)
    if (name, base_url, key) not in shared:  # after a rotation, the old one is closed with all others
        shared[name, base_url, key] = _connect(name, base_url, key)
    return shared[name, base_url, key]


def _connect(name: str, base_url: str | None, key: str | None) -> Provider[Any]:
    """`key`: of a file; None: the environment may have one."""
    hooks = [key_files.renewing(name, key)] if key else []
    if base_url is None:
        provider = _made(name, None, key)
        own = model_hosts.host_of(provider.base_url)
        return _watched(provider, lambda: own, hooks)
    cls: Any = infer_provider_class(name)
    own_host = functools.cache(lambda: _own_host(cls))
    host = model_hosts.host_of(base_url) or ""
    if not model_hosts.may_have_key(host, own_host, os.environ):
        provider = cls(base_url=base_url, api_key=_NO_KEY)
        if _http_client(provider) is None:
            raise UserActionRequired(
                f"baseURL: {host!r} is not a host that may have a key, and the library of provider {name!r} can't be "
                f"kept from sending one. To allow it, set in the worker's environment {model_hosts.SETTING}={host}"
            )
        return _watched(provider, lambda: None)
    try:
        provider = _made(name, base_url, key)
    except UserError:  # no key in the environment
        provider = cls(base_url=base_url, api_key=_NO_KEY)
    return _watched(provider, own_host, hooks)


def _made(name: str, base_url: str | None, key: str | None) -> Provider[Any]:
    if base_url is None and key is None:
        return infer_provider(name)
    cls: Any = infer_provider_class(name)
    given = {field: value for field, value in (("base_url", base_url), ("api_key", key)) if value is not None}
    if "api_key" in given and "api_key" not in inspect.signature(cls).parameters:
        variable = f"{key_files.variable(name)}_FILE"
        raise UserActionRequired(f"{variable}: provider {name!r} takes no key of a file. Remove the variable")
    provider: Provider[Any] = cls(**given)
    return provider


def _own_host(cls: Any) -> str | None:
    """The host of the server that a provider uses without a baseURL."""
    try:
        return model_hosts.host_of(cls(api_key=_NO_KEY).base_url)
    except Exception:  # whatever its library wants besides
        return None


def _http_client(provider: Provider[Any]) -> Any:
    """The provider's client of HTTPX; None if its library uses another one."""
    return getattr(provider, "_own_http_client", None)


def _watched(provider: Provider[Any], own: Callable[[], str | None], before: Sequence[Any] = ()) -> Provider[Any]:
    """Adds hooks to the client: they remove keys from requests to other hosts, and find errors in answers. `before`:
    further hooks of requests, for before that."""
    client = _http_client(provider)
    if client is not None:
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks["request"], *before, model_hosts.guard(own)],
            "response": [*hooks["response"], _raise_error_inside],
        }
    return provider


async def _raise_error_inside(response: Any) -> None:
    """Raises ErrorInside: gateways answer with status 200 before they know how it ends."""
    if response.status_code == 200 and "json" in response.headers.get("content-type", ""):
        content = await response.aread()
        if b'"error"' in content:
            try:
                body = json.loads(content)
            except ValueError:
                return
            if error_inside(body):
                raise ErrorInside(body, response.headers)
