"""What went wrong with a model → an error of ours that says what to do, and never contains a key.

Providers quote what they were sent. So nothing they say about credentials is passed on, the values of secret-looking
environment variables are blotted out, and the library's own errors are not chained.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic_ai.exceptions import (
    AgentRunError,
    ModelAPIError,
    ModelHTTPError,
    ModelQuotaExceededError,
    ModelRetry,
    UnexpectedModelBehavior,
    UsageLimitExceeded,
)

from watchbill.errors import RetryAfter, RetryLater, TaskFailed, UserActionRequired, WatchbillError
from watchbill.plan import retry_after

_SECRET: Final = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_MIN_SECRET: Final = 6
"""Shorter values (`1`, `true`) are no secrets, and would blot out half of a text."""
_MAX_QUOTED: Final = 500


def explain(error: Exception, model: str, base_url: str | None, request_limit: int, now: datetime) -> WatchbillError:
    """The error to raise instead: RetryLater for what may pass, RetryAfter if the provider says when, and
    UserActionRequired for what won't. `now` is aware."""
    if isinstance(error, ExceptionGroup):  # of models that stand in for each other: one that recovers is enough
        told = [explain(one, model, base_url, request_limit, now) for one in error.exceptions]
        return min(told, key=lambda one: (not isinstance(one, RetryLater), getattr(one, "retry_after", 0.0)))
    asked = f"model {model!r}" + (f" at {_shown(base_url)}" if base_url else "")
    if isinstance(error, ModelHTTPError):
        return _http(error, asked, now)
    if isinstance(error, UsageLimitExceeded):
        return TaskFailed(
            f"{asked}: no answer after {request_limit} requests in one task. "
            "Raise request_limit in the agent's config if that many are meant"
        )
    if isinstance(error, UnexpectedModelBehavior):
        reason = str(error).partition(". ")[0]  # the rest is advice to who programs with the library
        if isinstance(error.__cause__, ModelRetry):
            reason += f": {error.__cause__}"
        return TaskFailed(f"{asked} gave an answer that can't be used: {_quoted(reason)}")
    if isinstance(error, ModelAPIError):
        reason = _quoted(_innermost(error))
        text = f"{asked} can't be reached, or gave no readable answer: {reason}. Is its server running?"
        return _later(error, text, now)
    if isinstance(error, AgentRunError):
        return TaskFailed(f"{asked}: {_quoted(str(error))}")
    return TaskFailed(f"{asked}: the exchange failed with {type(error).__name__}: {_quoted(str(error))}")


def redacted(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text without the values of environment variables whose names look secret."""
    for name, value in (os.environ if environment is None else environment).items():
        if len(value) >= _MIN_SECRET and _SECRET.search(name):
            text = text.replace(value, "***")
    return text


def _http(error: ModelHTTPError, asked: str, now: datetime) -> WatchbillError:
    status = error.status_code
    if status in {401, 403}:
        return UserActionRequired(
            f"{asked}: the provider refused the credentials (HTTP {status}). "
            "Check the API key in the worker's environment, and that it may use this model"
        )
    said = _quoted(_message(error.body))
    if isinstance(error, ModelQuotaExceededError):
        return UserActionRequired(f"{asked}: the account's quota is used up (HTTP {status}): {said}")
    if status == 404:
        return UserActionRequired(f"{asked}: not found (HTTP 404): {said}. Check the model's name, and baseURL")
    if status in {408, 409, 429} or status >= 500:
        return _later(error, f"{asked}: the provider can't answer now (HTTP {status}): {said}", now)
    return UserActionRequired(f"{asked}: the provider refused the request (HTTP {status}): {said}")


def _later(error: BaseException, text: str, now: datetime) -> RetryLater:
    """Headers come first: they hold the provider's own clock, which what the library reads from a date doesn't heed."""
    causes = list(retry_after.chain(error))
    waits = [retry_after.in_headers(retry_after.attribute(one, "headers"), now) for one in causes]
    waits += [retry_after.asked(one, now) for one in causes]
    wait = next((seconds for seconds in waits if seconds is not None), None)
    return RetryLater(text) if wait is None else RetryAfter(f"{text} (it asks to wait {wait:.3g} s)", wait)


def _message(body: Any) -> str:
    """What a provider's error says: usually `{"error": {"message": …}}`, with or without the outer part."""
    if isinstance(body, dict):
        inner = body.get("error", body)
        message = inner.get("message") if isinstance(inner, dict) else inner
        return str(message or body)
    return str(body) if body else "no reason given"


def _quoted(text: str) -> str:
    """One line of bounded length, without secrets."""
    line = " ".join(redacted(text).split()).rstrip(".")
    return line if len(line) <= _MAX_QUOTED else line[:_MAX_QUOTED] + "…"


def _innermost(error: BaseException) -> str:
    """`All connection attempts failed`, where the outer error only says `Connection error.`"""
    texts = [str(error)]
    while (cause := error.__cause__) is not None:
        error = cause
        texts.append(str(error))
    return next((text for text in reversed(texts) if text), type(error).__name__)


def _shown(url: str) -> str:
    """Without a user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
