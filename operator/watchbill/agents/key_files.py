"""Reads the keys of models' providers from the files that variables name: OPENAI_API_KEY_FILE, as for a mounted Secret.

A key is read again for each attempt and each request, so that a rotated one is used at once. It never gets into the
environment, which other programs inherit; `redact` knows it all the same.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from watchbill.errors import InvalidInput, Problem
from watchbill.redaction import redact

_SUFFIX: Final = "_FILE"
_OTHER_NAMES: Final = {
    "azure": "AZURE_OPENAI_API_KEY",
    "azure-responses": "AZURE_OPENAI_API_KEY",
    "bedrock": "AWS_BEARER_TOKEN_BEDROCK",
    "bedrock-mantle": "AWS_BEARER_TOKEN_BEDROCK",
    "cohere": "CO_API_KEY",
    "google-cloud": "GOOGLE_API_KEY",
    "google-decisions": "GOOGLE_API_KEY",
    "heroku": "HEROKU_INFERENCE_KEY",
    "huggingface": "HF_TOKEN",
    "vercel": "VERCEL_AI_GATEWAY_API_KEY",
}
"""Provider → variable of its key, where that is not PROVIDER_API_KEY."""


def prefix(provider: str) -> str:
    """The prefix of a provider's variables."""
    return "OPENAI" if provider.startswith("openai") else provider.upper().replace("-", "_")


def variable(provider: str) -> str:
    """The variable that holds the provider's key, where no file does."""
    return _OTHER_NAMES.get(provider) or f"{prefix(provider)}_API_KEY"


def check(provider: str) -> list[Problem]:
    """Problems with the file of the provider's key, by its variable."""
    try:
        read(provider)
    except InvalidInput as error:
        return list(error.problems)
    return []


def read(provider: str) -> str | None:
    """The key in the provider's file; None: no variable names one. Raises InvalidInput, which names the variable
    and the file."""
    name = variable(provider) + _SUFFIX
    if not (path := os.environ.get(name, "")):
        return None
    if os.environ.get(variable(provider)):
        fix = "Remove one of them: it is not known which key is meant."
        raise InvalidInput(Problem(f"{variable(provider)} and {name} are both set", fix))
    try:
        key = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no text"
        fix = "Mount the Secret there, or correct the variable."
        raise InvalidInput(Problem(f"{name}: the file {path!r} can't be read: {reason}", fix)) from None
    if not key.strip() or not key.isprintable():
        what = "is empty" if not key.strip() else "holds more than one line, or what can't be printed"
        raise InvalidInput(Problem(f"{name}: the file {path!r} {what}", "Write the key into it, and nothing else."))
    redact.learn(variable(provider), key)
    return key


def renewing(provider: str, key: str) -> Callable[[Any], Awaitable[None]]:
    """A hook of HTTPX that puts the key of now in the place of `key`, with which the client was made. While a file
    can't be read, as in the middle of a rotation, the last key is sent."""
    last = key

    async def renew(request: Any) -> None:
        nonlocal last
        with suppress(InvalidInput):
            last = read(provider) or last
        if last != key:
            for name, value in list(request.headers.items()):
                if key in value:
                    request.headers[name] = value.replace(key, last)

    return renew
