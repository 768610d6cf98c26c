"""HTTP for the channels: guarded, without redirects, proxies and cookies, within a time and a size.

What an answer means is decided here for all of them. No error has a URL in its text; a receiver's words are in it if
the channel says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

import watchbill
from watchbill.delivery.message import Delivered
from watchbill.errors import DeliveryRefused, DestinationGone, NotDelivered
from watchbill.guard import AddressRefused, Guard
from watchbill.plan import retry_after
from watchbill.settings import Network

ANSWER_MAX_BYTES: Final = 16 * 1024
"""So much of an answer is read; the rest is of no interest."""
SAID_MAX: Final = 200
"""Characters of an answer in an error."""
THROTTLE_SECONDS: Final = 30.0
"""Pause for a receiver that has too much to do, and doesn't say when it will have less."""
_THROTTLED: Final = frozenset({429, 502, 503, 504})
_URL: Final = re.compile(r"https?://[!-~]+")
_ALLOW: Final = "WATCHBILL_DELIVERY_ALLOW"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a receiver."""

    status: int
    headers: Mapping[str, str]
    text: str
    """Its beginning; empty if nobody asked for it, or if it did not come in time."""


class Http:
    """Posts to receivers, over connections that it keeps. Belongs to one event loop."""

    def __init__(self, allow: Sequence[Network], timeout_seconds: float, **options: Any) -> None:
        """`options` are those of aiohttp's connectors."""
        self._seconds = timeout_seconds
        # Over http:// anybody on the way can read a result: it is for networks that somebody has allowed.
        guards = {"https": Guard(allow), "http": Guard(allow, public=False)}
        self._sessions = {scheme: _session(guard, timeout_seconds, options) for scheme, guard in guards.items()}

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, receiver: str, read: bool = True
    ) -> Answer:
        """Sends a body once. `receiver` stands for the URL in errors. `read`: the text of a success is needed, too.

        Raises DeliveryRefused when the URL can't be used or leads inside, and NotDelivered when no answer came.
        """
        scheme = _scheme(url, receiver)
        try:
            # As it is written: others sign URLs, and a signature fits one spelling only.
            target = URL(url, encoded=True)
            async with self._sessions[scheme].post(
                target, data=body, headers=headers, allow_redirects=False
            ) as response:
                text = await _beginning(response) if read or not response.ok else ""
                return Answer(response.status, response.headers, text)
        except aiohttp.ClientConnectorError as error:
            raise _unconnected(error, receiver, scheme) from None
        except TimeoutError:
            raise NotDelivered(f"{receiver} gave no answer within {self._seconds:g} s") from None
        except (aiohttp.InvalidURL, ValueError):
            raise DeliveryRefused(f"{receiver} is no URL that can be used. Correct it") from None
        except (aiohttp.ClientError, OSError) as error:
            raise NotDelivered(f"{receiver} gave no answer that can be read: {type(error).__name__}") from None

    async def aclose(self) -> None:
        """Closes the connections."""
        for session in self._sessions.values():
            await session.close()


def _session(guard: Guard, seconds: float, options: Mapping[str, Any]) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=guard.connector(limit=0, **options),
        timeout=aiohttp.ClientTimeout(total=seconds),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,  # a few bytes could become gigabytes
        headers={
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": f"Watchbill/{watchbill.__version__}",
        },
    )


def _scheme(url: str, receiver: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # half of an IPv6 address, say
        parts = None
    if parts is None or not _URL.fullmatch(url) or not parts.hostname:
        raise DeliveryRefused(f"{receiver} is no URL. Begin it with https://, and encode all but ASCII")
    return parts.scheme


async def _beginning(response: aiohttp.ClientResponse) -> str:
    read = bytearray()
    try:
        while len(read) < ANSWER_MAX_BYTES and (part := await response.content.read(ANSWER_MAX_BYTES - len(read))):
            read += part
    except (TimeoutError, aiohttp.ClientError):
        pass  # the status has come, and counts
    return read.decode("utf-8", "replace")


def _unconnected(error: aiohttp.ClientConnectorError, receiver: str, scheme: str) -> NotDelivered | DeliveryRefused:
    cause = error.os_error
    if isinstance(cause, AddressRefused):
        text = f"{receiver} is at {cause.address}, and {cause}"
        if scheme == "http":
            return DeliveryRefused(f"{text} over http://. Use https://, or allow its network by {_ALLOW}")
        return DeliveryRefused(f"{text}. Use a public one, or allow its network by {_ALLOW}")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return NotDelivered(f"{receiver} has a host that nobody knows, or the name server is away")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return NotDelivered(f"{receiver} has no certificate that can be trusted: {type(cause).__name__}")
    return NotDelivered(f"{receiver} can't be reached: {cause.strerror or type(cause).__name__}")


def judge(answer: Answer, receiver: str, now: datetime, *, said: str = "", final: bool = False) -> Delivered:
    """Judges a delivery by the status of its answer. `said` is shown in errors. `final`: other statuses of 4xx are,
    too.

    A status of 2xx is a success. 410 asks for no further message. All others may change, and with them also a redirect,
    which is never followed. 429, 502, 503 and 504 ask for a pause.
    """
    status = answer.status
    if 200 <= status < 300:
        return Delivered(status=status)
    text = f"{receiver} answered {_named(status)}{f': {said}' if said else ''}"
    if status == HTTPStatus.GONE:
        raise DestinationGone(f"{text}. It wants no further message", status)
    if 300 <= status < 400:
        raise NotDelivered(f"{text}. Redirects are not followed: write the URL that it leads to", status)
    asked = retry_after.in_headers(answer.headers, now)
    if asked is None and status in _THROTTLED:
        asked = THROTTLE_SECONDS
    if final and 400 <= status < 500 and asked is None and status not in (408, 409, 425):
        raise DeliveryRefused(text, status)
    raise NotDelivered(text, status, retry_after=asked)


def excerpt(text: str) -> str:
    """The beginning of an answer, in one line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= SAID_MAX else f"{line[:SAID_MAX]}…"


def _named(status: int) -> str:
    try:
        return f"{status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return str(status)
