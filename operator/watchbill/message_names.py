"""The keys, channels and fields of messages, locks, limits and caches: what programs share that may know no crew.

One function or attribute per name. Pure: no I/O.
"""

from __future__ import annotations

import re
from typing import Final

KEY_PREFIX: Final = "wb:"
"""Before the keys of locks and limits that belong to no crew. A crew's have `CrewKeys.prefix` instead."""


def lock(name: str, prefix: str = KEY_PREFIX) -> str:
    return f"{prefix}lock:{name}"


def rate_log(limiter: str, key: str, prefix: str = KEY_PREFIX) -> str:
    """Returns the key of a limiter's log of calls under `key`. The limiter's name is escaped, so that no two share a
    log."""
    return f"{prefix}rate:{limiter.replace('%', '%25').replace(':', '%3A')}:{key}"


def channel(name: str, prefix: str = "") -> str:
    """Pub/sub channel; without a prefix it is the name itself, which other programs know, too."""
    return f"{prefix}channel:{name}" if prefix else name


FIELDS_OF_ENTRY: Final = "wb:"
"""The prefix of fields that describe a stream's entry itself; no field of a user has it."""
JSON_FIELDS: Final = "wb:json"
"""The field of an entry that lists those of its fields which are JSON. All others are text."""
LETTER_ID: Final = "wb:id"
LETTER_GROUP: Final = "wb:group"
LETTER_DELIVERIES: Final = "wb:deliveries"
LETTER_ERROR: Final = "wb:error"


def stream(name: str, prefix: str = "") -> str:
    """A stream of messages; without a prefix it is the name itself, which other programs know, too."""
    return f"{prefix}stream:{name}" if prefix else name


def beside(key: str, what: str) -> str:
    """A key in the hash slot of another.

    >>> beside("tasks", "dead"), beside("wb:{team/blog}:stream:news", "dead")
    ('{tasks}:dead', 'wb:{team/blog}:stream:news:dead')
    """
    return f"{key}:{what}" if _TAG.search(key) else f"{{{key}}}:{what}"


def shares_slot(key: str) -> bool:
    """Returns whether `beside` finds a key in this key's slot: not if the key has a brace that closes no hash tag."""
    return "}" not in key or bool(_TAG.search(key))


def stream_dead(stream: str) -> str:
    """The stream of the messages of a stream that were given too often."""
    return beside(stream, "dead")


def stream_answer(stream: str, call: str) -> str:
    """Returns the key under which a script keeps its answer to a call, for when the call is sent again."""
    return beside(stream, f"answer:{call}")


def cache_recent(prefix: str) -> str:
    """The recent view of a cache: a sorted set by time."""
    return f"{prefix}timestamps"


def cache_agents(prefix: str) -> str:
    """The agents that have a history in a cache, by the time at which it expires."""
    return f"{prefix}agents"


def cache_history(prefix: str, agent: str) -> str:
    """The list of an agent's responses. The name of a key beside the lists, with any number of colons, gets one more,
    so that no two agents and no agent and index share a key."""
    return f"{prefix}{agent}:" if agent.rstrip(":") in ("timestamps", "agents") else f"{prefix}{agent}"


# A hash tag, as Redis Cluster finds it: from the first brace to the first that closes it, if something is between.
_TAG: Final = re.compile(r"^[^{]*\{[^}]+\}")
