"""The meaning of a store's URL: which servers, and how to talk to them. Connects to nothing.

redis://HOST:PORT/DB   rediss:// (TLS)   unix:///PATH?db=DB
redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB       rediss+sentinel://…
redis+cluster://HOST:PORT,HOST:PORT                   rediss+cluster://…

Each with user:password@ before the hosts, and redis-py's options in the query.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit

import redis.asyncio
from redis.asyncio.connection import BlockingConnectionPool, parse_url
from redis.driver_info import DriverInfo

from watchbill.errors import InvalidInput, Problem

Kind = Literal["server", "sentinel", "cluster"]
Address = tuple[str, int]

_KINDS: Final[Mapping[str, tuple[Kind, bool]]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("server", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_PORTS: Final[Mapping[Kind, int]] = {"server": 6379, "sentinel": 26379, "cluster": 6379}
_FORMS: Final = (
    "Use redis://HOST:PORT/DB, rediss://… for TLS, unix:///path/to/socket, "
    "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB or redis+cluster://HOST:PORT,HOST:PORT."
)
_ENCODE: Final = (
    "Use redis://HOST:PORT/DB, with %-encoding for special characters in user and password, and options of redis-py."
)
POOL_OPTIONS: Final = ("max_connections", "timeout")
"""Options that a pool of connections takes, and no connection."""
DRIVER: Final = DriverInfo()
"""Name and version of redis-py, which a connection tells the server. Without it each would read the version from the
files of its installation, which takes almost a millisecond."""
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


@dataclass(frozen=True, slots=True)
class Target:
    """The address and options of the store: a URL that was parsed once."""

    kind: Kind
    nodes: tuple[Address, ...]
    """The server, the Sentinels, or some of the cluster's nodes; empty for a Unix socket."""
    tls: bool
    service: str
    """The name that the Sentinels know the server by."""
    options: Mapping[str, Any]
    """Options of each connection to a server, as redis-py names them: user, password, db, TLS, and the query's."""
    sentinel_options: Mapping[str, Any]
    """Options of each connection to a Sentinel."""


def parse(url: str | Target) -> Target:
    """Returns where the store is; a Target as it is. Raises InvalidInput, which never quotes a secret, if the URL names
    no store."""
    if isinstance(url, Target):
        return url
    if not isinstance(url, str):
        raise _refusal(f"a {type(url).__name__} is not the URL of a Redis or Valkey", _FORMS)
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _KINDS:
        raise _refusal(f"{without_secret(url)!r} is not the URL of a Redis or Valkey", _FORMS)
    kind, tls = _KINDS[scheme]
    try:
        if kind == "server":
            target = _server(url, scheme, tls)
        else:
            target = _many(url, rest, kind, tls)
        _try(target)
    except (ValueError, TypeError, redis.exceptions.RedisError) as error:
        if isinstance(error, InvalidInput):
            raise
        # the error's text may quote a part of a password
        raise _refusal(f"{without_secret(url)!r} has a part that can't be read", _ENCODE) from None
    for name in _FILES:
        path = target.options.get(name)
        if path is not None and not os.access(path, os.R_OK):
            fix = "Name a file in PEM format that this user may read."
            raise _refusal(f"{name}={path!r} of {without_secret(url)!r} can't be read", fix)
    return target


def without_secret(url: str) -> str:
    """Returns the URL as it may be shown: without users and passwords."""
    place, mark, query = url.partition("?")
    # redis-py takes credentials from the query, too
    options = "&".join(
        o for o in query.split("&") if not unquote(o.partition("=")[0]).lower().endswith(("username", "password"))
    )
    shown = place + (mark + options if options else "")
    scheme, separator, rest = shown.partition("://")
    if not separator:  # not a URL: what stands before an @ may still be a secret
        return shown.rpartition("@")[2]
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def without_user(url: str) -> tuple[str, str]:
    """Returns the URL's scheme and what follows its user and password, for another user. Raises InvalidInput if it has
    more that is secret, or is meant for one place only: credentials of Sentinels, a client's certificate."""
    own = parse(url).sentinel_options.keys() & {"username", "password"} | parse(url).options.keys() & set(_FILES[1:])
    if own:
        raise _refusal(
            f"{without_secret(url)!r} has options that can't be given to workers: {', '.join(sorted(own))}",
            "Give a URL without them, or set WATCHBILL_REDIS_ACL_PER_CREW to false.",
        )
    scheme, _, rest = without_secret(url).partition("://")
    return scheme, rest


def _server(url: str, scheme: str, tls: bool) -> Target:
    options: dict[str, Any] = dict(parse_url(url))
    options.pop("connection_class", None)
    path = urlsplit(url).path.strip("/")
    if scheme == "unix":
        if "path" not in options:
            raise _refusal(f"{without_secret(url)!r} names no socket", "Use unix:///path/to/socket.")
        return Target("server", (), tls, "", options, {})
    if path and not path.isdecimal():  # redis-py takes it for no path
        fix = "Name a database by its number, as in redis://HOST:PORT/0."
        raise _refusal(f"{path!r} in {without_secret(url)!r} is not a database", fix)
    node = (str(options.pop("host", "localhost")), int(options.pop("port", _PORTS["server"])))
    return Target("server", (node,), tls, "", options, {})


def _many(url: str, rest: str, kind: Kind, tls: bool) -> Target:
    place, mark, query = rest.partition("?")
    userinfo, at, place = place.rpartition("@")
    hosts, _, path = place.partition("/")
    nodes = tuple(_address(host, _PORTS[kind]) for host in hosts.split(","))
    # redis-py reads all but the hosts and the path
    options: dict[str, Any] = dict(parse_url(f"redis://{userinfo}{at}x{mark}{query}"))
    del options["host"]
    of_sentinel = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    parts = [unquote(part) for part in path.split("/")]
    service = ""
    if kind == "sentinel":
        service = parts.pop(0)
        if not service:
            fix = (
                "Use redis+sentinel://HOST:PORT,HOST:PORT/SERVICE, with the name that the Sentinels know the server by."
            )
            raise _refusal(f"{without_secret(url)!r} names no service", fix)
    db = "/".join(parts)
    if db and not db.isdecimal():
        raise _refusal(f"{db!r} in {without_secret(url)!r} is not a database", "Name a database by its number.")
    if db:
        options.setdefault("db", int(db))
    if kind == "cluster" and options.pop("db", 0) != 0:
        raise _refusal(f"{without_secret(url)!r} names a database, and a Redis Cluster has but one", "Leave it out.")
    encrypted = {name: value for name, value in options.items() if name.startswith("ssl_")}
    sentinel_options = {name: value for name, value in of_sentinel.items() if value is not None} | encrypted
    return Target(kind, nodes, tls, service, options, sentinel_options)


def _address(text: str, port: int) -> Address:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.path or parts.query or parts.fragment:
        raise ValueError
    return unquote(parts.hostname), parts.port or port


def _try(target: Target) -> None:
    """Makes a connection and a pool, to raise what redis-py finds wrong with their options. Connects to nothing."""
    options = {name: value for name, value in target.options.items() if name not in POOL_OPTIONS}
    options = {"driver_info": DRIVER, **options}
    BlockingConnectionPool(**{name: value for name, value in target.options.items() if name in POOL_OPTIONS})
    if "path" in options:
        redis.asyncio.UnixDomainSocketConnection(**options)
    elif target.tls:
        redis.asyncio.SSLConnection(**options)
    else:
        redis.asyncio.Connection(**options)


def _refusal(reason: str, fix: str) -> InvalidInput:
    return InvalidInput(Problem(reason, fix))
