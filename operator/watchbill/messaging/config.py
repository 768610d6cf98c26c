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
