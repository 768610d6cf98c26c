"""Outgoing HTTP of a crew's own tools: guarded, without redirects, proxies and cookies, within a time and a size.

A definition names the URL, and so who may write to the store chooses it. So connections go to public addresses over
https:// only, unless WATCHBILL_TOOLS_ALLOW names networks inside. Header values come from the environment.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any, Final

import aiohttp

import watchbill
from watchbill.errors import NotWorthRetrying, RetryLater, UserActionRequired
from watchbill.guard import AddressRefused, Guard
from watchbill.settings import networks

SETTING: Final = "WATCHBILL_TOOLS_ALLOW"
ANSWER_MAX_BYTES: Final = 256 * 1024
"""Size of an answer above which it is refused: a model would have to read all of it."""
_PURPOSE: Final = "tools may connect to"
_ENV: Final = "env:"

_sessions: dict[asyncio.AbstractEventLoop, dict[tuple[str, str], aiohttp.ClientSession]] = {}


def headers(given: Mapping[str, str], tool: str) -> dict[str, str]:
    """The headers with their values from the environment. Raises UserActionRequired for a variable that is not set."""
    found = {}
    for name, text in given.items():
        scheme, _, variable = text.rpartition(_ENV)
        value = os.environ.get(variable, "").strip()
        if not value:
            raise UserActionRequired(
                f"{tool} has the header {name} of the variable {variable}, which is not set where this worker runs, "
                "or is empty. Set it"
            )
        if not value.isprintable():
            raise UserActionRequired(f"{tool}: the variable {variable} can't be a header: it has control characters")
        found[name] = scheme + value
    return found


def session(url: str) -> aiohttp.ClientSession:
    """The session of this event loop for URLs of this scheme. Over http:// anybody on the way can read: it is for
    networks that somebody has allowed."""
    scheme, allowed = url.partition("://")[0].lower(), os.environ.get(SETTING, "")
    for old in [known for known in _sessions if known.is_closed()]:
        _sessions.pop(old, None)
    shared = _sessions.setdefault(asyncio.get_running_loop(), {})
    if (scheme, allowed) not in shared:
        guard = Guard(networks(allowed), public=scheme == "https", purpose=_PURPOSE)
        shared[scheme, allowed] = aiohttp.ClientSession(
            connector=guard.connector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),  # each caller has its own
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,  # a few bytes could become gigabytes
            headers={"Accept-Encoding": "identity", "User-Agent": f"Watchbill/{watchbill.__version__}"},
        )
    return shared[scheme, allowed]


async def aclose() -> None:
    """Closes the sessions of the running event loop. The next request makes new ones."""
    for each in _sessions.pop(asyncio.get_running_loop(), {}).values():
        await each.close()


def refused(error: BaseException, url: str) -> str | None:
    """The reason and the fix, if the guard refused the address; None for another error."""
    cause: Any = error
    while cause is not None and not isinstance(cause, AddressRefused):
        cause = getattr(cause, "os_error", None) or cause.__cause__ or cause.__context__
    if cause is None:
        return None
    over = " over http://" if url.lower().startswith("http://") else ""
    return (
        f"it is at {cause.address}, and {cause}{over}. Use https:// and a public one, or allow its network by {SETTING}"
    )


async def read(response: aiohttp.ClientResponse) -> bytes:
    """The whole body. Raises NotWorthRetrying if it is too large, which it would be again."""
    body = bytearray()
    while part := await response.content.readany():
        body += part
        if len(body) > ANSWER_MAX_BYTES:
            response.close()
            raise NotWorthRetrying(f"the answer has more than {ANSWER_MAX_BYTES // 1024} KiB. Ask for less")
    return bytes(body)


def unreachable(error: Exception, url: str) -> Exception:
    """The error to raise when no answer came: UserActionRequired if the guard refused, else RetryLater."""
    if reason := refused(error, url):
        return UserActionRequired(reason)
    if isinstance(error, TimeoutError):
        return RetryLater("it gave no answer in time")
    said = getattr(error, "os_error", None) or error
    return RetryLater(f"it can't be reached: {getattr(said, 'strerror', None) or type(said).__name__}")
