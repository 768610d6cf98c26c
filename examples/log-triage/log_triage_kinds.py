"""What the log-triage crew knows about failures: their kinds, which cause which, and where to look. Pure data.

Ordered: the first kind of which a record contains a phrase is its kind, so the specific stand before the general.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of failure. `depth`: of two that begin together, the lower is more likely the cause of the other."""

    name: str
    depth: int
    phrases: tuple[str, ...]
    advice: str


KINDS: tuple[Kind, ...] = (
    Kind(
        "circuit breaker",
        8,
        ("breaker", "load shedding", "shedding load"),
        "A breaker opens because of something else: find what it counted as failures.",
    ),
    Kind(
        "connection pool exhausted",
        6,
        (
            "no connection available",
            "too many connections",
            "too many open connections",
            "pool exhausted",
            "pool is exhausted",
            "pool is full",
            "pool timeout",
            "max connections",
            "maxclients",
            "remaining connection slots",
            "queuepool limit",
            "unable to acquire",
        ),
        "Pools run dry when calls hang: look at what the calls wait for before making the pool larger.",
    ),
    Kind(
        "disk full",
        1,
        ("no space left", "disk full", "disk is full", "enospc", "disk quota exceeded"),
        "Look at what grew on the disk (`df`, `du`), and stop the writer before deleting anything.",
    ),
    Kind(
        "out of memory",
        1,
        (
            "out of memory",
            "outofmemory",
            "oom command",
            "oom-kill",
            "oomkill",
            "maxmemory",
            "memoryerror",
            "cannot allocate memory",
            "heap space",
            "enomem",
        ),
        "Look at what fills the memory (size, number and expiry of keys or objects), and who began to write before it.",
    ),
    Kind(
        "too many open files",
        2,
        ("too many open files", "emfile", "enfile"),
        "Count the open files of the process by type; a leak of sockets is more common than a low limit.",
    ),
    Kind(
        "certificate or TLS",
        2,
        ("certificate", "tls handshake", "tls alert", "sslerror", "ssl error", "ssl_error", "x509"),
        "Check expiry and names of the certificate that the peer presents, and the clocks on both sides.",
    ),
    Kind(
        "name resolution",
        2,
        ("name or service not known", "name resolution", "no such host", "getaddrinfo", "nxdomain"),
        "Resolve the name from the machine or pod that failed; look at the resolver and recent network changes.",
    ),
    Kind(
        "access denied",
        3,
        (
            "permission denied",
            "access denied",
            "unauthorized",
            "unauthorised",
            "forbidden",
            "authentication failed",
            "invalid token",
            "invalid api key",
            "noauth",
            "wrongpass",
        ),
        "Look for a rotated or expired credential, or a changed policy, at the time of the first failure.",
    ),
    Kind(
        "lock or deadlock",
        3,
        ("deadlock", "lock wait timeout", "could not obtain lock", "lock not acquired"),
        "List who holds the lock and which statements or jobs run together since then.",
    ),
    Kind(
        "timeout",
        5,
        (
            "timeout",
            "timed out",
            "time-out",
            "deadline exceeded",
            "etimedout",
            "did not answer",
            "took too long",
            "unresponsive",
        ),
        "Something did not answer: look whether the peer was stopped, saturated or unreachable at the first of these.",
    ),
    Kind(
        "connection refused or lost",
        4,
        (
            "connection refused",
            "connection reset",
            "connection closed",
            "connection was closed",
            "connection aborted",
            "connection lost",
            "broken pipe",
            "econnrefused",
            "econnreset",
            "server disconnected",
            "no route to host",
            "network is unreachable",
            "111 connecting",
        ),
        "Look whether the peer was up and listening then: its own log, restarts, deployments.",
    ),
    Kind(
        "process crashed",
        2,
        (
            "segmentation fault",
            "segfault",
            "core dumped",
            "killed process",
            "was killed",
            "sigkill",
            "crashloop",
            "panic:",
        ),
        "Look at why the process ended: its last lines, its exit code, the kernel's log.",
    ),
)

SERVER_ERROR = "requests answered 5xx"
SYMPTOM_DEPTH = 9

_BY_NAME = {kind.name: kind for kind in KINDS}
_PHRASES = [(phrase, kind.name) for kind in KINDS for phrase in kind.phrases]
_EXCEPTION = re.compile(r"(?:[\w$]+\.)*([A-Z]\w*)(?::|$)")


def classify(cause: str, message: str) -> str:
    """The kind of a failed record: by its exception's words, else its message's; else the exception's name; else ""."""
    for text in (cause.lower(), message.lower()):
        for phrase, name in _PHRASES if text else ():
            if phrase in text:
                return name
    exception = _EXCEPTION.match(cause)
    return exception.group(1) if exception else ""


def depth(name: str) -> int:
    """How deep in the chain of causes a kind usually sits; a plain exception stands in the middle."""
    if name == SERVER_ERROR:
        return SYMPTOM_DEPTH
    return _BY_NAME[name].depth if name in _BY_NAME else 5


def advice(name: str) -> str:
    """What to look at for this kind, or "" where we have nothing to say."""
    return _BY_NAME[name].advice if name in _BY_NAME else ""
