"""The server that a class of this package asks, as seed 002 names it: by host, port and database."""

from __future__ import annotations

import os
from typing import Final

from watchbill.messaging import RedisConfig
from watchbill.messaging.config import DEFAULT_PORT

HOST_VARIABLE: Final = "REDIS_HOST"
PORT_VARIABLE: Final = "REDIS_PORT"


def config(host: str | None, port: int | None, db: int) -> RedisConfig:
    """Returns the server. What isn't given is read from REDIS_HOST and REDIS_PORT, and else is localhost:6379."""
    named = os.environ.get(PORT_VARIABLE, "")
    default = int(named) if named.isdecimal() else named or DEFAULT_PORT
    found = port if port is not None else default
    name = host if host is not None else os.environ.get(HOST_VARIABLE) or "localhost"
    return RedisConfig(host=name, port=found, db=db)  # type: ignore[arg-type]  # a port that is no number is refused
