"""How long a refusal of credentials is waited out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis

from waiting import until
from watchbill import connection
from watchbill.connection import acceptance, outages
from watchbill.errors import StoreRefuses
from watchbill.testing import FakeClock

REFUSED = redis.exceptions.AuthenticationError("invalid username-password pair")


@pytest.mark.pure
def test_credentials_that_were_accepted_may_be_refused_for_a_minute() -> None:
    clock = FakeClock()
    known = acceptance.Acceptance(clock)
    mine, other = ("crew", "x"), ("crew", "wrong")
    assert known.refuse(mine, REFUSED) is REFUSED, "never accepted: they are wrong"
    known.accept(mine)
    for seconds in (0, 30, 29.9):
        clock.advance(seconds)
        assert outages.unavailable(known.refuse(mine, REFUSED)) is not None
    assert known.refuse(other, REFUSED) is REFUSED
    clock.advance(0.1)
    assert known.refuse(mine, REFUSED) is REFUSED
    known.accept(mine)
    assert outages.unavailable(known.refuse(mine, REFUSED)) is not None, "the minute begins anew"


async def test_a_user_that_the_server_forgets_is_waited_for(private_redis: Callable[[], Awaitable[Any]]) -> None:
    server = await private_redis()
    user = ("ACL", "SETUSER", "crew", "on", ">x", "allkeys", "allchannels", "allcommands")
    async with connection.connected(server.url) as admin:
        await admin.execute_command(*user)
        url = server.url.replace("unix://", "unix://crew:x@")
        blocking = connection.connect_sync(url)
        async with connection.connected(url) as client:
            assert await client.ping()
            assert await asyncio.to_thread(blocking.ping)
            await admin.execute_command("ACL", "DELUSER", "crew")  # which closes its connections
            waits: list[float] = []

            async def ask_until_back() -> None:
                while not waits:  # the server closes them a moment later
                    await outages.persist(client.ping, on_wait=waits.append)

            asking = asyncio.create_task(ask_until_back())
            await until(lambda: waits, what="that it waits")

            def refused() -> BaseException | None:
                try:
                    blocking.ping()
                except redis.exceptions.RedisError as error:
                    return error
                return None

            error = await asyncio.to_thread(refused)
            assert error is not None
            assert outages.unavailable(error) is not None
            await admin.execute_command(*user)
            await asking
            assert await asyncio.to_thread(blocking.ping)
        blocking.close()
        async with connection.connected(url.replace(":x@", ":y@")) as client:
            with pytest.raises(StoreRefuses, match="Check user and password"):
                await outages.persist(client.ping)
