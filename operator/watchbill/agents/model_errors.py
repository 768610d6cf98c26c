"""Errors of models → Watchbill's errors, which say what to do, and never contain a key.

Providers quote requests. So their messages about credentials are dropped, secrets are redacted (`redaction`), and the
library's own errors are not chained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from watchbill.errors import RetryAfter, RetryLater, TaskFailed, UserActionRequired, WatchbillError, needed, sentence
from watchbill.plan import retry_after
from watchbill.redaction import redact

with needed("LLMAgent", "llm"):
    from pydantic import ValidationError
    from pydantic_ai.exceptions import (
        ContentFilterError,
        ModelAPIError,
        ModelHTTPError,
        ModelQuotaExceededError,
        ModelRateLimitError,
        ModelRequestRejectedError,
        ModelRequestTimeout,
        ModelRetry,
        ModelServerError,
        ModelTimeoutError,
        ModelUnavailableError,
        OutputTokenLimitExceeded,
        ToolRetryError,
        UnexpectedModelBehavior,
        UsageLimitExceeded,
        UserError,
    )
    from pydantic_ai.messages import ToolReturnPart

_MAX_QUOTED: Final = 500
_MAX_BRIEF: Final = 200
_GIVEN_UP: Final = "exceeded max retries"
"""The library's words for a tool whose arguments are wrong once more."""

_UNCONNECTED: Final = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})
"""Errors of HTTP clients for requests that were never sent."""

_STATUS: Final = {
    "quota": 402,
    "rate_limit": 429,
    "api_key": 401,
    "authentication": 401,
    "permission": 403,
    "not_found": 404,
    "invalid_request": 400,
    "context_length": 400,
}
"""Words that providers write in place of an HTTP status → the status."""


class ErrorInside(Exception):
    """An HTTP answer with status 200 holds an error."""

    def __init__(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        super().__init__("an error with HTTP status 200")
        self.body = body
        self.headers = headers
        self.status = _status_in(body["error"])


def error_inside(body: Any) -> bool:
    """Returns whether an answer of a model's server holds an error in place of a result, whatever its HTTP status
    is."""
    if not isinstance(body, dict) or not body.get("error") or "custom_id" in body:  # the last: a line of a batch
        return False
    return not (body.get("choices") or body.get("output") or body.get("object") == "response")


def _status_in(error: Any) -> int:
    """The status that the error names; 503 if it names none."""
    words = [error.get(name) for name in ("code", "status", "type")] if isinstance(error, dict) else [error]
    for word in map(str, words):
        if word.isdecimal() and 400 <= int(word) < 600:
            return int(word)
    text = " ".join(map(str, words)).lower()
    return next((status for part, status in _STATUS.items() if part in text), 503)


def status(error: BaseException) -> int | None:
    """Returns the HTTP status of an answer that was an error, also of one inside an answer with status 200; None if
    there was no such answer."""
    if inside := next((one for one in retry_after.chain(error) if isinstance(one, ErrorInside)), None):
        return inside.status
    return error.status_code if isinstance(error, ModelHTTPError) else None


def explain(
    error: Exception,
    model: str,
    base_url: str | None,
    request_limit: int,
    now: datetime,
    without_key: str | None = None,
) -> WatchbillError:
    """The error to raise instead: RetryLater if another attempt may succeed, RetryAfter if the provider says when, else
    UserActionRequired. `now` is aware; `without_key` is a host that was sent no key."""
    asked = shown(model, base_url)
    if inside := next((one for one in retry_after.chain(error) if isinstance(one, ErrorInside)), None):
        return _http(inside, inside.status, inside.body, asked, now, without_key)
    if isinstance(error, ModelHTTPError):
        return _http(error, error.status_code, error.body, asked, now, without_key)
    if isinstance(error, UsageLimitExceeded):
        return TaskFailed(
            f"{asked}: no answer after {request_limit} requests in one task. "
            "Raise request_limit in the agent's config if that many are meant"
        )
    if isinstance(error, UnexpectedModelBehavior):
        return _useless(error, asked, now)
    if isinstance(error, ModelAPIError):
        return _without_status(error, asked, now)
    said = _quoted(str(error))
    if isinstance(error, UserError):
        return UserActionRequired(f"{asked}: {said}")
    # Also what comes of an answer of another form than the library expects: a proxy's, an overloaded server's.
    return _later(error, f"{asked} gave no answer that can be read: {type(error).__name__}: {said}", now)


def together(told: Sequence[WatchbillError]) -> WatchbillError:
    """The error of several models that were asked one after the other: if one of them may recover, it says when."""
    text = "; then ".join(map(str, told))
    best = min(told, key=lambda one: (not isinstance(one, RetryLater), getattr(one, "retry_after", 0.0)))
    return RetryAfter(text, best.retry_after) if isinstance(best, RetryAfter) else type(best)(text)


def shown(model: str, base_url: str | None) -> str:
    """The model, with its server if that is not its provider's own, as errors name it."""
    return f"model {model!r}" + (f" at {_shown(base_url)}" if base_url else "")


def brief(error: Exception) -> str:
    """The reason of a failure in a few words, without secrets."""
    if inside := next((one for one in retry_after.chain(error) if isinstance(one, ErrorInside)), None):
        said = f"HTTP {inside.status}: {_message(inside.body)}"
    elif isinstance(error, ModelHTTPError):
        said = f"HTTP {error.status_code}: {_message(error.body)}"
    else:
        said = _innermost(error)
    line = _quoted(said)
    return line if len(line) <= _MAX_BRIEF else line[:_MAX_BRIEF] + "…"


def _useless(error: UnexpectedModelBehavior, asked: str, now: datetime) -> WatchbillError:
    """The error for an answer that is missing or can't be used."""
    reason = str(error).partition("\n")[0].partition(". ")[0]  # the rest is for who programs with the library
    if isinstance(error, OutputTokenLimitExceeded):
        return UserActionRequired(
            f"{asked}: its limit of tokens came before its answer. Raise max_tokens in the agent's config"
        )
    cause = error.__cause__
    if isinstance(cause, ModelRetry):
        reason += f": {cause}"
    wrong = cause if isinstance(cause, ValidationError) and _GIVEN_UP in reason else None
    if wrong is not None:
        reason += ": " + "; ".join(_of_field(each) for each in wrong.errors(include_url=False, include_input=False))
    of_tool = isinstance(cause, ToolRetryError) and isinstance(cause.tool_retry, ToolReturnPart)
    text = f"{asked} gave an answer that can't be used: {_quoted(reason)}"
    if isinstance(cause, ModelRetry) or isinstance(error, ContentFilterError) or of_tool or wrong is not None:
        return TaskFailed(text)
    return _later(error, text, now)


def _without_status(error: ModelAPIError, asked: str, now: datetime) -> WatchbillError:
    """The error for a failure without an HTTP status: of the connection, or in an answer of another form."""
    if isinstance(error, ModelQuotaExceededError | ModelRequestRejectedError):
        return UserActionRequired(f"{asked}: the provider refused the request: {_quoted(str(error))}")
    if isinstance(error, ModelRateLimitError | ModelUnavailableError | ModelServerError):
        return _later(error, f"{asked}: the provider can't answer now: {_quoted(str(error))}", now)
    statuses = [retry_after.attribute(one, "status_code") for one in retry_after.chain(error)]
    if redirect := next((status for status in statuses if isinstance(status, int) and 300 <= status < 400), None):
        fix = "Make baseURL the address that it redirects to: keys and prompts follow no redirect"
        return UserActionRequired(f"{asked} answers with a redirect (HTTP {redirect}). {fix}")
    if isinstance(error, ModelRequestTimeout | ModelTimeoutError) and not never_sent(error):
        return _later(error, f"{asked} gave no whole answer in time. See timeout in the agent's config", now)
    reason = _quoted(_innermost(error))
    return _later(
        error, f"{asked} can't be reached, or gave no readable answer: {sentence(reason)} Is its server running?", now
    )


def _http(
    error: Exception, status: int, body: Any, asked: str, now: datetime, without_key: str | None
) -> WatchbillError:
    if status in {401, 403}:
        fix = "Check the API key in the worker's environment, and that it may use this model"
        if without_key:
            fix = (
                f"No key was sent, because {without_key!r} is not a host that may have one. To allow it, set in the "
                f"worker's environment WATCHBILL_MODEL_HOSTS={without_key}"
            )
        return UserActionRequired(f"{asked}: the provider refused the credentials (HTTP {status}). {fix}")
    said = _quoted(_message(body))
    if isinstance(error, ModelQuotaExceededError):
        return UserActionRequired(f"{asked}: the account's quota is used up (HTTP {status}): {said}")
    if status == 404:
        return UserActionRequired(
            f"{asked}: not found (HTTP 404): {sentence(said)} Check the model's name, and baseURL"
        )
    if status in {408, 409, 429} or status >= 500:
        return _later(error, f"{asked}: the provider can't answer now (HTTP {status}): {said}", now)
    return UserActionRequired(f"{asked}: the provider refused the request (HTTP {status}): {said}")


def never_sent(error: BaseException) -> bool:
    """Returns whether the request never reached the server."""
    return any(type(one).__name__ in _UNCONNECTED for one in retry_after.chain(error))


def _of_field(problem: Any) -> str:
    place = ".".join(map(str, problem["loc"]))
    return f"{place}: {problem['msg']}" if place else str(problem["msg"])


def wait_of(error: BaseException, now: datetime) -> float | None:
    """The seconds for which the provider asks to wait; None: it doesn't say. `now` is aware."""
    causes = list(retry_after.chain(error))
    waits = [retry_after.in_headers(retry_after.attribute(one, "headers"), now) for one in causes]
    waits += [retry_after.asked(one, now) for one in causes]
    return next((seconds for seconds in waits if seconds is not None), None)


def _later(error: BaseException, text: str, now: datetime) -> RetryLater:
    """The time of the next attempt. Headers win over the library's value, which ignores the provider's clock."""
    wait = wait_of(error, now)
    return RetryLater(text) if wait is None else RetryAfter(f"{text} (it asks to wait {wait:.3g} s)", wait)


def _message(body: Any) -> str:
    """The message in a provider's error: usually `{"error": {"message": …}}`, with or without the outer part."""
    if isinstance(body, dict):
        inner = body.get("error", body)
        message = inner.get("message") if isinstance(inner, dict) else inner
        return str(message or body)
    return str(body) if body else "no reason given"


def _quoted(text: str) -> str:
    """The text as one line of bounded length, without secrets."""
    line = " ".join(redact(text).split()).rstrip(".")
    return line if len(line) <= _MAX_QUOTED else line[:_MAX_QUOTED] + "…"


def _innermost(error: BaseException) -> str:
    """The innermost cause: `All connection attempts failed`, where the outer error is `Connection error`."""
    texts = [str(error)]
    while (cause := error.__cause__) is not None:
        error = cause
        texts.append(str(error))
    return next((text for text in reversed(texts) if text), type(error).__name__)


def _shown(url: str) -> str:
    """The URL without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
