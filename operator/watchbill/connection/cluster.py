"""The async client of a Redis Cluster: it knows which node has a key, and follows where slots move.

Callers see a `redis.asyncio.Redis`.

Not redis.asyncio.RedisCluster, because: it is no `redis.asyncio.Redis`; a command costs nearly twice the CPU; where all
connections to a node are in use it raises MaxConnectionsError instead of waiting; and it can't send two commands in one
trip of which the first must not be sent again, as a claim behind a wait, or WAITAOF behind a submission.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import redis.asyncio
from redis.asyncio.connection import BlockingConnectionPool, Connection
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, MovedError, ResponseError, TryAgainError

from watchbill.connection.client import BROKEN, GUIDE_SECONDS, LeanClient, finding_pool, pool
from watchbill.connection.url import Address, Target

T = TypeVar("T")

PATIENCE_SECONDS: Final = 2.0
"""A command is sent again for so long while the cluster moves its slot or elects a master."""
REDIRECTIONS: Final = 16

ELSEWHERE: Final = (AskError, TryAgainError, ClusterDownError)
"""Errors of a command of which nothing was done. (MOVED is an ASK to redis-py.)"""
_WITH_SUBCOMMAND: Final = frozenset({"MEMORY", "OBJECT", "XGROUP", "XINFO"})
_WITHOUT_KEY: Final = frozenset(
    {"ACL", "CLIENT", "CLUSTER", "CONFIG", "DBSIZE", "FLUSHALL", "FLUSHDB", "INFO", "PING", "ROLE", "SCRIPT", "TIME"}
    | {"WAIT", "WAITAOF"}
)


class ClusterClient(LeanClient):
    """Sends each command to the node that has its key's slot. Its own pool has connections to any node, for commands
    without a key and for subscriptions: a message that is published reaches the subscribers of every node."""

    def __init__(self, target: Target, options: Mapping[str, Any]) -> None:
        super().__init__(finding_pool(target, options, self._any))
        self._target = target
        self._options = options
        self._nodes: dict[Address, LeanClient] = {}
        self._slots: dict[int, Address] = {}
        """Slot → node, as the cluster last said; empty while unknown."""
        self._known = list(target.nodes)
        self._serving: list[Address] = []
        """Masters and replicas, as the cluster last said."""
        self._turn = itertools.count(random.randrange(1000))
        self._learning: asyncio.Task[None] | None = None

    def __repr__(self) -> str:  # redis-py's would come round to ourselves
        return f"<ClusterClient of {self._target.nodes}>"

    async def execute_command(
        self, *args: Any, sent: Callable[[], None] | None = None, asking: bool = False, **options: Any
    ) -> Any:
        key = key_of(args)
        if key is None:
            return await super().execute_command(*args, sent=sent, **options)
        return await self.at_home(
            key, lambda node, asking: node.execute_command(*args, sent=sent, asking=asking, **options)
        )

    async def execute_two(self, first: Sequence[Any], second: Sequence[Any], *, asking: bool = False) -> list[Any]:
        """The first command must have a key. A key of the second must be in the same slot."""
        key = str(key_of(first))

        async def call(node: LeanClient, asking: bool) -> list[Any]:
            answers = await node.execute_two(first, second, asking=asking)
            if isinstance(answers[0], ELSEWHERE):
                raise answers[0]
            return answers

        answers = await self.at_home(key, call)
        if isinstance(answers[1], ELSEWHERE):  # the first was done, and must not be done again
            answers[1] = await self.answer(second, {})
        return answers

    async def answer(self, command: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Returns the answer to a command, which may be an error."""
        try:
            return await self.execute_command(*command, **options)
        except ResponseError as error:
            return error

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> redis.asyncio.client.Pipeline:
        return _ClusterPipeline(self, transaction)

    async def home(self, key: str) -> LeanClient:
        slot = key_slot(key.encode("utf-8", "surrogateescape"))
        if slot not in self._slots:
            await self._learn()
        try:
            return self._node(self._slots[slot])
        except KeyError:
            raise ClusterDownError(f"CLUSTERDOWN no node serves the slot {slot}") from None

    async def masters(self) -> dict[str, redis.asyncio.Redis]:
        await self._learn()  # what is known may be of before a failover
        if not self._slots:
            raise ClusterDownError("CLUSTERDOWN no node serves any slot")
        return {f"{host}:{port}": self._node((host, port)) for host, port in set(self._slots.values())}

    async def servers(self) -> dict[str, redis.asyncio.Redis]:
        await self._learn()
        return {f"{host}:{port}": self._node((host, port)) for host, port in self._serving}

    async def at_home(self, key: str, call: Callable[[LeanClient, bool], Awaitable[T]]) -> T:
        """Returns the answer of `call(node, asking)` at the node that has the key, wherever the key moves meanwhile."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_SECONDS
        pause, redirections, asked = 0.01, 0, None
        while True:
            node = None
            try:
                node = asked or await self.home(key)
                return await call(node, asked is not None)
            except MovedError as error:
                asked = None
                self._slots[error.slot_id] = self._address(error.host, error.port, node)
            except AskError as error:
                asked = self._node(self._address(error.host, error.port, node))
            except (TryAgainError, ClusterDownError) as error:
                if loop.time() > until:
                    raise
                if isinstance(error, ClusterDownError):
                    self.drop_slots()
                asked = None
                await asyncio.sleep(pause * (0.5 + random.random()))
                pause = min(pause * 2, 0.3)
                continue
            redirections += 1
            if redirections > REDIRECTIONS:
                self.drop_slots()
                raise TryAgainError("TRYAGAIN the cluster's nodes don't agree where the slot is")

    def drop_slots(self) -> None:
        """Makes the next command ask which node has which slot: a node is away, or was wrong."""
        self._slots = {}

    async def _learn(self) -> None:
        """Asks any node which node has which slot. Callers that wait at the same time share one question."""
        if self._learning is None or self._learning.done():
            self._learning = asyncio.create_task(self._ask_for_slots(), name="cluster slots")
            self._learning.add_done_callback(lambda done: done.cancelled() or done.exception())  # who asked may be gone
        await asyncio.shield(self._learning)

    async def _ask_for_slots(self) -> None:
        async def answer(connection: Connection) -> tuple[str, Any]:
            return connection.host, await connection.read_response()

        async def ask() -> tuple[str, Any]:
            async with asyncio.timeout(GUIDE_SECONDS):
                return await self._trip([("CLUSTER SLOTS",)], answer)

        try:
            asked, ranges = await ask()
        except BROKEN:  # the next connection is to another node
            asked, ranges = await ask()
        slots: dict[int, Address] = {}
        known = dict.fromkeys(self._target.nodes)
        serving: dict[Address, None] = {}
        for first, last, *nodes in ranges:
            addresses = [(_host(node[0]) or asked, int(node[1])) for node in nodes]
            slots.update(dict.fromkeys(range(int(first), int(last) + 1), addresses[0]))
            known.update(dict.fromkeys(addresses))
            serving.update(dict.fromkeys(addresses))
        self._slots, self._known = slots, list(known)
        self._serving = list(serving)

    def _node(self, address: Address) -> LeanClient:
        node = self._nodes.get(address)
        if node is None:
            node = _Node(pool(self._target, self._options, address), self.drop_slots)
            self._nodes[address] = node
        return node

    def _address(self, host: str, port: int, asked: LeanClient | None) -> Address:
        """Returns the address of a node. A node that names no host for another means its own host."""
        if not _host(host) and asked is not None:
            host = asked.connection_pool.connection_kwargs["host"]
        return host, port

    async def _any(self) -> Address:
        return self._known[next(self._turn) % len(self._known)]

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.gather(self._learning, return_exceptions=True)
        await super().aclose(close_connection_pool)
        for node in self._nodes.values():
            await node.aclose()


class _Node(LeanClient):
    """The client of one node. It calls `on_broken` when the node is away."""

    def __init__(self, pool: BlockingConnectionPool, on_broken: Callable[[], None]) -> None:
        super().__init__(pool)
        self._on_broken = on_broken

    async def _trip(self, *args: Any, **options: Any) -> Any:
        try:
            return await super()._trip(*args, **options)
        except BROKEN:
            self._on_broken()
            raise


class _ClusterPipeline(redis.asyncio.client.Pipeline):
    """One pipeline for each node; a transaction needs keys of one slot."""

    def __init__(self, cluster: ClusterClient, transaction: bool) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, transaction, None)
        self._cluster = cluster

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands = self.command_stack
        try:
            keys = [key_of(args) for args, _ in commands]
            named = [key for key in keys if key is not None]
            if not commands:
                return []
            if self.is_transaction:
                replies = await self._transaction(named[0])
            else:
                replies = await self._apart([key or named[0] for key in keys])
            if raise_on_error:
                self.raise_first_error(commands, replies)
            return replies
        finally:
            await self.reset()  # type: ignore[no-untyped-call]

    async def _transaction(self, key: str) -> list[Any]:
        async def call(node: LeanClient, asking: bool) -> list[Any]:
            if asking:  # which counts for one command, and so can't be said of a transaction
                raise TryAgainError("TRYAGAIN the slot moves")
            return await self._sent(node, range(len(self.command_stack)))

        return await self._cluster.at_home(key, call)

    async def _apart(self, keys: Sequence[str]) -> list[Any]:
        of_node: dict[int, tuple[LeanClient, list[int]]] = {}
        for index, key in enumerate(keys):
            node = await self._cluster.home(key)
            of_node.setdefault(id(node), (node, []))[1].append(index)
        replies: list[Any] = [None] * len(keys)

        async def ask(node: LeanClient, indices: Sequence[int]) -> None:
            try:
                found = await self._sent(node, indices)
            except BROKEN:
                self._cluster.drop_slots()
                raise
            for index, reply in zip(indices, found, strict=True):
                if isinstance(reply, ELSEWHERE):
                    reply = await self._cluster.answer(*self.command_stack[index])
                replies[index] = reply

        await asyncio.gather(*(ask(node, indices) for node, indices in of_node.values()))
        return replies

    async def _sent(self, node: LeanClient, indices: Sequence[int]) -> list[Any]:
        async with node.pipeline(self.is_transaction) as pipe:
            pipe.command_stack = [self.command_stack[index] for index in indices]
            return await pipe.execute(raise_on_error=False)


def key_of(command: Sequence[Any]) -> str | None:
    """Returns a key of the command, or None where it has none. Knows the commands that Watchbill uses."""
    name, *rest = str(command[0]).upper().split(" ")
    arguments = [*rest, *command[1:]]
    if name in _WITHOUT_KEY or not arguments:
        return None
    if name in ("EVAL", "EVALSHA"):
        return _text(arguments[2]) if int(arguments[1]) else None
    if name in ("XREAD", "XREADGROUP"):
        arguments = arguments[3:] if name == "XREADGROUP" else arguments  # a group may have any name
        words = [_text(argument).upper() for argument in arguments]
        return _text(arguments[words.index("STREAMS") + 1])
    return _text(arguments[1 if name in _WITH_SUBCOMMAND else 0])


def _text(argument: Any) -> str:
    return argument.decode("utf-8", "surrogateescape") if isinstance(argument, bytes) else str(argument)


def _host(said: Any) -> str | None:
    """Returns None where a node names no host."""
    return str(said) if said and said != "?" else None
