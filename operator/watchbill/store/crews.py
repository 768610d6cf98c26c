"""Crew records in Redis: the shell around `records.CrewDefinition`, with the interface of seed 000.

Each change of a crew (record, index, id) is one script on keys of one slot, which compares what the caller has read
with what is there before it writes. So a crew is never half saved, and no concurrent change is lost. The scripts
decode no JSON: the record as read is the version they compare. May not: run crews, or know of queues and Kubernetes.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import redis.asyncio
from redis.exceptions import ClusterCrossSlotError, RedisClusterException, RedisError

from watchbill import connection, errors, names
from watchbill.connection import outages, scripts
from watchbill.messaging import config
from watchbill.records import CrewDefinition
from watchbill.store import crew_json

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_D = TypeVar("_D")

_FAILURES: Final = (RedisError, RedisClusterException, OSError, UnicodeDecodeError)
"""All that a client raises: the cluster's exceptions stand apart, and a given client may decode strictly."""
_DB: Final = 2
_CHUNK: Final = 500
"""Crews per command: few round trips, and the server is never held for long."""
_ANSWER_SECONDS: Final = 120
"""Seconds for which a script's answer is kept for its own resend. redis-py resends for less than a minute by
default."""
_ATTEMPTS: Final = 60
"""Attempts of a change that meets concurrent changes. Each time one of them succeeds, so all do in the end."""


class CrewRedis:
    """The crew records of one tenant.

    `redis_url` defaults to the server that the environment names by REDIS_HOST and REDIS_PORT, else localhost:6379.
    `db` counts where the URL names none; its default is REDIS_DB, else 2. `client`, an existing redis.asyncio client,
    is used instead of a URL, and is not closed. On a Redis Cluster, tenant `global` needs a
    `key_prefix` with a hash tag, as in `{crew}`.

    What fails is logged and answered as the seed has it: False, None, 0 or []. With `strict`, the same failures raise:
    StoreUnavailable; NotFound; InvalidInput for what can't be stored or read; Conflict when the id is another crew's,
    when the record is no longer as expected, or when it never stopped changing; Closed after `close`. The constructor
    raises InvalidInput.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        key_prefix: str = "crew",
        db: int | None = None,
        *,
        tenant: str = names.GLOBAL_TENANT,
        strict: bool = False,
        client: redis.asyncio.Redis | None = None,
    ) -> None:
        crew_json.check(crew_json.part_problem(tenant), "tenant")
        if not key_prefix:
            raise errors.InvalidInput(errors.Problem("the key prefix is empty", "Leave it out to use 'crew'."))
        self.tenant = tenant
        self.key_prefix = key_prefix
        self.strict = strict
        self._owns_client = client is None
        if client is None:
            usual = config.from_parts(db=db, usual_db=_DB)
            client = connection.connect(redis_url or usual.target(), db=usual.db)
        self._redis = connection.checked(client, is_async=True)
        self._index = names.crew_index(tenant, key_prefix)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def save_crew(self, crew: CrewDefinition, *, unchanged_since: datetime | None = None) -> bool:
        """Stores the crew in place of any other of its name; True on success.

        The first save's created_at is kept, updated_at is set from the server's clock, later each time. With another
        crew_id than before, the previous id no longer resolves; an id that is another crew's is refused. Give the
        `updated_at` of the crew as loaded as `unchanged_since` to store nothing if the record has changed since.
        """
        return await self._answer(f"save {getattr(crew, 'name', crew)!r}", self._save(crew, unchanged_since), False)

    async def load_crew(self, name: str) -> CrewDefinition | None:
        """The crew of this name; None if there is none that can be read."""
        return await self._answer(f"load {name!r}", self._load(name), None)

    async def load_crew_by_id(self, crew_id: str) -> CrewDefinition | None:
        """The crew that now has this id; None if there is none that can be read."""
        return await self._answer(f"load the crew with id {crew_id!r}", self._load_by_id(crew_id), None)

    async def delete_crew(self, name: str) -> bool:
        """True if deleted, False if not found."""
        return await self._answer(f"delete {name!r}", self._delete_one(name), False)

    async def list_crews(self) -> list[str]:
        """The names of all crews, sorted."""
        return await self._answer("list crews", self._names(), [])

    async def crew_exists(self, name: str) -> bool:
        return await self._answer(f"look for {name!r}", self._exists(name), False)

    async def get_all_crews(self) -> list[CrewDefinition]:
        """All crews that can be read, sorted by name. With `strict`, one that can't be read is InvalidInput."""
        return await self._answer("load all crews", self._all(), [])

    async def get_crew_metadata(self, name: str) -> dict[str, Any] | None:
        """Returns the entries of a listing: crew_id, name, description, execution_mode, agent_count, created_at and
        updated_at (ISO 8601, or None), and the crew's own entries under `metadata`."""
        return await self._answer(f"load the metadata of {name!r}", self._metadata(name), None)

    async def update_crew_metadata(self, name: str, metadata: Mapping[str, Any]) -> bool:
        """Sets these entries and keeps the others; True on success, False if there is no such crew.

        No concurrent update is lost. Fields of the record that this version doesn't know are kept.
        """
        return await self._answer(f"update the metadata of {name!r}", self._update(name, metadata), False)

    async def ping(self) -> bool:
        """Returns whether the server answers. Never raises."""
        try:
            return bool(await self._redis.ping())
        except (*_FAILURES, errors.Closed) as error:
            logger.warning("crew records: the store does not answer: %s", error)
            return False

    async def close(self) -> None:
        """Closes the connections, unless the client was given."""
        if self._owns_client:
            await self._redis.aclose()

    async def clear_all_crews(self) -> int:
        """Deletes all crews of this tenant, and says how many there were."""
        return await self._answer("delete all crews", self._clear(), 0)

    async def _answer(self, doing: str, work: Awaitable[_T], otherwise: _D) -> _T | _D:
        try:
            return await work
        except errors.WatchbillError as error:
            failure, cause = error, error.__cause__
        except _FAILURES as error:
            failure, cause = self._typed(error), error
        level = logging.INFO if isinstance(failure, errors.NotFound) else logging.WARNING
        logger.log(level, "crew records of %r: could not %s: %s", self.tenant, doing, failure)
        if self.strict:
            raise failure from cause
        return otherwise

    def _typed(self, error: Exception) -> errors.WatchbillError:
        text = str(error) or type(error).__name__
        if isinstance(error, UnicodeDecodeError) or "WRONGTYPE" in text:
            return self._foreign(f"({text})")
        if isinstance(error, ClusterCrossSlotError) or "same key slot" in text:
            reason = f"keys with the prefix {self.key_prefix!r} don't share a slot of the Redis Cluster"
            return errors.InvalidInput(errors.Problem(reason, "Use a hash tag, as in key_prefix='{crew}'."))
        if isinstance(error, RedisClusterException):
            return errors.StoreUnavailable(f"the Redis Cluster doesn't answer as it should: {text}")
        return outages.unavailable(error) or errors.UserActionRequired(f"the store refuses this: {text}")

    def _foreign(self, where: str) -> errors.InvalidInput:
        reason = f"a key of another program is among those of {self.key_prefix!r} {where}"
        return errors.InvalidInput(errors.Problem(reason, "Choose another key_prefix, or remove that key."))

    def _record(self, name: str) -> str:
        return names.crew_record(self.tenant, name, self.key_prefix)

    def _by_id(self, crew_id: str) -> str:
        return names.crew_by_id(self.tenant, crew_id, self.key_prefix)

    def _answer_key(self) -> str:
        """Returns the key under which a script keeps its answer for its own resend. No crew's name has a colon, so it
        is no record."""
        return self._record(f"answer:{uuid.uuid4().hex}")

    async def _save(self, crew: CrewDefinition, unchanged_since: datetime | None) -> bool:
        crew_json.check_crew(crew)
        name, crew_id = crew.name, crew.crew_id
        crew_json.check(crew_json.name_problem(name), "name")
        crew_json.check(crew_json.id_problem(crew_id), "crew_id")
        fields = crew_json.storable(crew, self._record(name))
        for pause in _pauses():
            seen = await self._read_crew(name, crew_id)
            before = crew_json.fields(seen.record)
            if unchanged_since is not None and crew_json.aware(before.get("updated_at")) != unchanged_since:
                raise errors.Conflict(f"the crew {name!r} has changed since {unchanged_since}. Load it again")
            holder, holder_record = await self._holder(name, crew_id, seen)
            if not seen.record:
                await self._list_tenant()
            previous_id = before.get("crew_id")
            keys = [
                self._record(name),
                self._index,
                self._by_id(crew_id),
                self._by_id(previous_id if isinstance(previous_id, str) else crew_id),
                self._record(holder),
                self._answer_key(),
            ]
            record = crew_json.dump(crew_json.stamped(fields, before, seen.now))
            args = [name, record, seen.record, seen.holder, holder_record, _ANSWER_SECONDS]
            if await self._run("crews_save", keys, args) == "saved":
                return True
            await asyncio.sleep(pause)
        raise _restless(name)

    async def _holder(self, name: str, crew_id: str, seen: _Seen) -> tuple[str, bytes | str]:
        """The crew that the id's entry names, with its record: its own, or one that has no right to the id."""
        if seen.holder == name or crew_json.name_problem(seen.holder):
            return name, seen.record
        record = await self._redis.get(self._record(seen.holder)) or b""
        if crew_json.fields(record).get("crew_id") == crew_id:
            raise errors.Conflict(f"the crew id {crew_id!r} is already used by the crew {seen.holder!r}")
        return seen.holder, record

    async def _list_tenant(self) -> None:
        """Before the crew, so that no crew is missed. It lives in another slot, so its failure must not matter."""
        try:
            await self._redis.sadd(names.crew_tenants(self.key_prefix), self.tenant)
        except _FAILURES as error:
            logger.warning("crew records: could not list the tenant %r: %s", self.tenant, error)

    async def _update(self, name: str, metadata: Mapping[str, Any]) -> bool:
        crew_json.check(crew_json.name_problem(name), "name")
        key = self._record(name)
        entries = crew_json.jsonable(metadata, key)
        if not isinstance(entries, dict):
            problem = errors.Problem(f"metadata is {type(metadata).__name__!r}", "Give a mapping.", source=key)
            raise errors.InvalidInput(problem)
        for pause in _pauses():
            seen = await self._read_crew(name)
            if not seen.record:
                raise errors.NotFound(f"there is no crew {name!r}")
            crew_json.parse(seen.record, key, name)
            before = crew_json.fields(seen.record)  # not the parsed crew: it lacks what this version doesn't know
            merged = {**before.get("metadata", {}), **entries}
            record = crew_json.dump(crew_json.stamped({**before, "name": name, "metadata": merged}, before, seen.now))
            args = [record, seen.record, _ANSWER_SECONDS]
            if await self._run("crews_update", [key, self._answer_key()], args) == "saved":
                return True
            await asyncio.sleep(pause)
        raise _restless(name)

    async def _read_crew(self, name: str, crew_id: str | None = None) -> _Seen:
        keys = [self._record(name)] if crew_id is None else [self._record(name), self._by_id(crew_id)]
        record, holder, seconds, micros = await scripts.run(self._redis, "crews_read", keys, [])
        now = datetime.fromtimestamp(int(seconds), UTC) + timedelta(microseconds=int(micros))
        return _Seen(record or b"", _text(holder or b""), now)

    async def _run(self, script: str, keys: Sequence[str], args: Sequence[bytes | str | int]) -> str:
        return _text(await scripts.run(self._redis, script, keys, args))

    async def _load(self, name: str) -> CrewDefinition:
        crew_json.check(crew_json.name_problem(name), "name")
        record = await self._redis.get(self._record(name))
        if record is None:
            raise errors.NotFound(f"there is no crew {name!r}")
        return crew_json.parse(record, self._record(name), name)

    async def _load_by_id(self, crew_id: str) -> CrewDefinition:
        crew_json.check(crew_json.id_problem(crew_id), "crew_id")
        name = _text(await self._redis.get(self._by_id(crew_id)) or b"")
        crew = None if crew_json.name_problem(name) else await self._load(name)
        # The entry may be another program's leftover: only the record says whose the id is.
        if crew is None or crew.crew_id != crew_id:
            raise errors.NotFound(f"there is no crew with the id {crew_id!r}")
        return crew

    async def _metadata(self, name: str) -> dict[str, Any]:
        crew = await self._load(name)
        shown = {"crew_id", "name", "description", "execution_mode", "created_at", "updated_at", "metadata"}
        return {**crew.model_dump(mode="json", include=shown), "agent_count": len(crew.agents)}

    async def _exists(self, name: str) -> bool:
        crew_json.check(crew_json.name_problem(name), "name")
        return bool(await self._redis.exists(self._record(name)))

    async def _names(self) -> list[str]:
        return sorted(_text(name) for name in await self._redis.smembers(self._index))

    async def _all(self) -> list[CrewDefinition]:
        crews: list[CrewDefinition] = []
        problems: list[errors.Problem] = []
        for chunk in _chunks(await self._names()):
            keys = [self._record(name) for name in chunk]
            gone: list[str] = []
            for name, key, record in zip(chunk, keys, await self._redis.mget(keys), strict=True):
                if record is None:
                    gone.append(name)
                    continue
                try:
                    crews.append(crew_json.parse(record, key, name))
                except errors.InvalidInput as error:
                    logger.warning("crew records of %r: skipped %r: %s", self.tenant, name, error)
                    problems.extend(error.problems)
            await self._unlist(gone)
        if problems and self.strict:
            raise errors.InvalidInput(problems)
        return crews

    async def _unlist(self, gone: list[str]) -> None:
        """Takes names without a record off the index. What can't be mended now is mended next time."""
        try:
            if gone:
                await self._delete_as_read(gone, [None] * len(gone))
        except _FAILURES as error:
            logger.warning("crew records of %r: could not mend the index: %s", self.tenant, error)

    async def _delete_one(self, name: str) -> bool:
        crew_json.check(crew_json.name_problem(name), "name")
        deleted, foreign = await self._delete([name])
        if foreign:
            raise self._foreign(f"at {self._record(name)!r}")
        if not deleted:
            raise errors.NotFound(f"there is no crew {name!r}")
        return True

    async def _clear(self) -> int:
        # A name that is no crew's could lead to a key that is no record.
        crew_names = [name for name in await self._names() if not crew_json.name_problem(name)]
        deleted, foreign = 0, list[str]()
        for chunk in _chunks(crew_names):
            count, others = await self._delete(chunk)
            deleted, foreign = deleted + count, foreign + others
        if foreign:
            failure = self._foreign(f"at {', '.join(repr(self._record(name)) for name in foreign)}")
            if self.strict:
                raise failure
            logger.warning("crew records of %r: %s", self.tenant, failure)
        return deleted

    async def _delete(self, crew_names: list[str]) -> tuple[int, list[str]]:
        """Returns how many were deleted, and the names at whose keys another program's are, which are left alone."""
        deleted, foreign = 0, list[str]()
        for pause in _pauses():
            records = await self._redis.mget([self._record(name) for name in crew_names])
            letters = await self._delete_as_read(crew_names, records)
            deleted += letters.count("d")
            foreign += [name for name, letter in zip(crew_names, letters, strict=True) if letter == "f"]
            crew_names = [name for name, letter in zip(crew_names, letters, strict=True) if letter == "c"]
            if not crew_names:
                return deleted, foreign
            await asyncio.sleep(pause)
        raise _restless(crew_names[0])

    async def _delete_as_read(self, crew_names: Sequence[str], records: Sequence[bytes | str | None]) -> str:
        """One letter per crew: d deleted, m missing; left alone: c changed since it was read, f foreign."""
        keys = [self._index, self._answer_key()]
        args: list[bytes | str | int] = [_ANSWER_SECONDS]
        for name, record in zip(crew_names, records, strict=True):
            crew_id = crew_json.fields(record or b"").get("crew_id")
            keys += [self._record(name), self._by_id(crew_id) if isinstance(crew_id, str) else self._record(name)]
            args += [name, record or b""]
        return await self._run("crews_delete", keys, args)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The state that a change is based on."""

    record: bytes | str
    """The record as stored, for comparison; empty if there is none."""
    holder: str
    """The name under the id's entry; empty if there is none."""
    now: datetime
    """By the server's clock."""


def _chunks(values: list[str]) -> Iterator[list[str]]:
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))


def _pauses() -> Iterator[float]:
    """Seconds to wait after each attempt: random, so that those who met don't meet again."""
    return (random.uniform(0, min(0.2, 0.002 * 2**attempt)) for attempt in range(_ATTEMPTS))


def _restless(name: str) -> errors.Conflict:
    return errors.Conflict(
        f"the crew {name!r} was changed by others each of the {_ATTEMPTS} times that we were ready to"
    )


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")
