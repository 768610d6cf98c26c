"""The address of the server, by a URL or by its parts. Connects to nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from watchbill.connection import url as urls
from watchbill.errors import InvalidInput, Problem
from watchbill.messaging import checks

URL_VARIABLE: Final = "WATCHBILL_REDIS_URL"
HOST_VARIABLE: Final = "REDIS_HOST"
PORT_VARIABLE: Final = "REDIS_PORT"
DB_VARIABLE: Final = "REDIS_DB"
DEFAULT_PORT: Final = 6379


@dataclass(frozen=True, repr=False)
class RedisConfig:
    """A server, by default the one on this machine. Raises InvalidInput if a part is wrong.

    `url` takes every form of docs/redis.md (TLS, Unix sockets, Sentinels, a Cluster), and stands alone; the other
    fields name one server.
    """

    host: str = "localhost"
    port: int = DEFAULT_PORT
    db: int = 0
    password: str | None = None
    username: str | None = None
    ssl: bool = False
    url: str = ""

    def __post_init__(self) -> None:
        if self.url:
            if (self.host, self.port, self.db, self.password, self.username, self.ssl) != _PARTS:
                problem = "a URL and parts of one are given"
                raise InvalidInput(Problem(problem, "Give the URL alone, with all parts in it.", path="url"))
        else:
            checks.text(self.host, "host")
            checks.whole(self.port, "port", least=1, most=65535)
            checks.whole(self.db, "db", least=0, most=1_000_000)
        self.target()

    def target(self) -> urls.Target:
        """Returns the server as `watchbill.connection` takes it."""
        return urls.parse(self.url or self._made())

    def _made(self) -> str:
        user, password = (quote(part or "", safe="") for part in (self.username, self.password))
        login = f"{user}:{password}@" if user or password else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.ssl else 'redis'}://{login}{host}:{self.port}/{self.db}"

    def __repr__(self) -> str:
        return f"RedisConfig(url={urls.without_secret(self.url or self._made())!r})"


_PARTS: Final = ("localhost", DEFAULT_PORT, 0, None, None, False)


def from_environment() -> RedisConfig:
    """Returns the server that WATCHBILL_REDIS_URL names, else the one on this machine."""
    return RedisConfig(url=os.environ.get(URL_VARIABLE, ""))


def from_parts(
    host: str | None = None, port: int | None = None, db: int | None = None, *, usual_db: int = 0
) -> RedisConfig:
    """Returns the server of these parts, as seeds 000 and 002 name it. What isn't given is read from REDIS_HOST,
    REDIS_PORT and REDIS_DB, and else is localhost, 6379 and `usual_db`. Raises InvalidInput."""
    # Kubernetes sets REDIS_PORT=tcp://10.0.0.1:6379 in pods beside a Service called redis.
    written = os.environ.get(PORT_VARIABLE, "").rpartition(":")[2]
    return RedisConfig(
        host=host if host is not None else os.environ.get(HOST_VARIABLE) or "localhost",
        port=port if port is not None else _whole(PORT_VARIABLE, written or DEFAULT_PORT),
        db=db if db is not None else _whole(DB_VARIABLE, os.environ.get(DB_VARIABLE) or usual_db),
    )


def _whole(variable: str, value: str | int) -> int:
    try:
        return int(value)
    except ValueError:
        raise InvalidInput(Problem(f"{value!r} is no number", "Correct it.", path=variable)) from None
