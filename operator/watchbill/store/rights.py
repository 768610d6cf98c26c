"""The commands that Watchbill sends to a store, and the rights of a user for the workers of one crew. Pure.

A user's rights are listed, and not taken from categories: what a server learns later is not allowed by itself.
"""

from __future__ import annotations

from typing import Final

from watchbill.names import CrewKeys

COMMANDS: Final = (
    *("GET K", "SET K v", "DEL K", "UNLINK K", "EXISTS K", "TYPE K", "EXPIRE K 1", "PEXPIRE K 1", "PEXPIREAT K 1"),
    *("PERSIST K", "HGET K f", "HSET K f v", "HSETNX K f v", "HMGET K f", "HGETALL K", "HDEL K f", "HLEN K"),
    *("HKEYS K", "HEXISTS K f", "HINCRBY K f 1", "ZADD K 1 m", "ZREM K m", "ZSCORE K m", "ZMSCORE K m", "ZCARD K"),
    *("ZCOUNT K 0 1", "ZRANGE K 0 1", "ZREVRANGE K 0 1", "ZRANGEBYSCORE K 0 1", "ZRANGEBYLEX K - +", "ZRANDMEMBER K"),
    *("ZREMRANGEBYSCORE K 0 1", "ZREMRANGEBYRANK K 0 1", "SADD K m", "SREM K m", "SISMEMBER K m", "RPUSH K v"),
    *(
        "LPUSH K v",
        "LREM K 1 v",
        "LLEN K",
        "LRANGE K 0 1",
        "LTRIM K 0 1",
        "BLPOP K 0",
        "MGET K",
        "SMEMBERS K",
        "SCARD K",
    ),
    *("XADD K * f v", "XLEN K", "XRANGE K - +", "XREVRANGE K + -", "XDEL K 0-1"),
    *("XTRIM K MAXLEN 0", "XACK K g 0-1", "XCLAIM K g c 0 0-1", "XPENDING K g", "XINFO STREAM K", "XREAD STREAMS K 0"),
    *("XGROUP CREATE K g $ MKSTREAM", "XREADGROUP GROUP g c STREAMS K >", "PUBLISH wb:doctor v", "SUBSCRIBE wb:doctor"),
    *("EVALSHA 0 1 K", "TIME", "INFO"),
)
"""The commands that scripts and clients send, each with arguments that it takes. K: a key."""

FOR_USERS: Final = ("ACL SETUSER watchbill:doctor", "ACL DELUSER watchbill:doctor", "ACL USERS")
"""The commands by which the operator makes users, where each crew gets one of its own."""

_CONNECTION: Final = ("auth", "hello", "select", "ping", "quit", "multi", "exec", "discard", "unsubscribe", "asking")
_WITHOUT_KEYS: Final = ("eval", "wait", "cluster|slots", "command")
_NEWER: Final = ("waitaof", "client|setinfo")
"""Commands that Redis 7.0 doesn't know."""


def of_crew(keys: CrewKeys, *, newer: bool) -> list[str]:
    """The rules of ACL SETUSER for the workers of one crew: its keys, its channels, and what they send. `newer`: the
    server knows what Redis 7.0 doesn't."""
    sent = sorted({command.split()[0].lower() for command in COMMANDS})
    commands = [*sent, *_CONNECTION, *_WITHOUT_KEYS, *(_NEWER if newer else ())]
    return [f"~{keys.root}*", f"&{keys.root}*", "-@all", *(f"+{command}" for command in commands)]
