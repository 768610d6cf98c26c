"""Applies, reads and deletes crews and heartbeats in a store.

The resources that an operator manages can be read here; they are changed with kubectl.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from watchbill import cluster_names, names
from watchbill.client import arguments
from watchbill.client.connected import Connected
from watchbill.errors import Conflict, InvalidInput, NotFound, Problem
from watchbill.plan import texts
from watchbill.records import CrewDefinition, to_crew
from watchbill.store import definitions
from watchbill.store.crews import CrewRedis

if TYPE_CHECKING:
    from watchbill.api import Crew, Heartbeat
    from watchbill.store.fired import HeartbeatReport
    from watchbill.store.heartbeats import HeartbeatState

Change = Literal["created", "configured", "unchanged"]


@dataclass(frozen=True, slots=True)
class Applied:
    """The change that `apply` made to one resource."""

    kind: Literal["crew", "heartbeat"]
    name: str
    """The resource as `namespace/name`."""
    change: Change


class Crews(Connected):
    """The client's methods for crews and heartbeats."""

    async def apply(
        self, sources: str | Path | Crew | Heartbeat | Iterable[str | Path | Crew | Heartbeat]
    ) -> list[Applied]:
        """Creates or updates crews and their heartbeats in the store, and returns which of the two it did.

        `sources`: YAML files, folders of them, or the resources themselves. Agents needn't be loadable here. Tasks
        that wait run with the new definition; a run that has begun keeps its own. A heartbeat fires while an operator
        or `watchbill run FILE --watch` runs. Raises InvalidInput with every problem before anything is stored, and
        Conflict when an operator manages the crew.
        """
        crews, beats = self._declared(sources)
        for keys, *_ in crews:
            await self._refuse_managed(keys, "apply", "-f FILE")
        known = {keys.crew: definition for keys, definition, _ in crews}
        for keys, beat in beats:
            await self._refuse_misfit(keys, beat, known)
        done: list[Applied] = []
        for keys, definition, suspended in crews:
            done.append(Applied("crew", keys.crew, await self._put_crew(keys, definition, suspended)))
        for keys, beat in beats:
            name = f"{_split(keys)[0]}/{beat.name}"
            done.append(Applied("heartbeat", name, await self._put_heartbeat(keys, beat)))
        return done

    async def crews(self, *, namespace: str | None = None) -> list[str]:
        """The crews of a namespace (the client's own), sorted, each as `namespace/name`."""
        texts.check(namespace=namespace)
        chosen = namespace or self._namespace
        return [f"{chosen}/{name}" for name in await self._records(chosen).list_crews()]

    async def crew(self, crew: str) -> CrewDefinition:
        """The current definition of the crew. Raises NotFound, NewerRecord."""
        return (await self._current(self.keys(crew))).definition

    async def owner(self, crew: str) -> str:
        """The operator that manages the crew; empty if none does. Raises NotFound."""
        keys = self.keys(crew)
        await self._current(keys)
        return (await definitions.identity(self._redis, keys)).owner

    async def uid(self, crew: str) -> str:
        """The uid, which tells the crew from former and later ones of its name. Raises NotFound."""
        return (await self._current(self.keys(crew))).uid

    async def is_suspended(self, crew: str) -> bool:
        """Returns whether no task of the crew begins until somebody resumes it. Raises NotFound."""
        keys = self.keys(crew)
        await self._current(keys)
        held = await definitions.identity(self._redis, keys)
        return bool(held.suspended) and not held.hold

    async def hold(self, crew: str) -> str:
        """The reason why the quota of its namespace has no room for the crew, so that it takes no work and none of it
        begins; empty: it has. Raises NotFound."""
        keys = self.keys(crew)
        await self._current(keys)
        return (await definitions.identity(self._redis, keys)).hold

    async def manifest(self, crew: str) -> dict[str, Any]:
        """The crew as a manifest without default values, which can be applied again.

        Raises NotFound, and InvalidInput if another program wrote a crew that no manifest can express.
        """
        keys = self.keys(crew)
        definition = await self._record(keys) or (await self._current(keys)).definition
        made = to_crew(definition, _split(keys)[0])
        held = await definitions.identity(self._redis, keys)
        if held.suspended and not held.hold:
            made = made.model_copy(update={"spec": made.spec.model_copy(update={"suspend": True})})
        return {"apiVersion": made.api_version, "kind": made.kind} | made.model_dump(
            mode="json", by_alias=True, exclude_defaults=True
        )

    async def heartbeats(self, crew: str) -> list[HeartbeatState]:
        """The crew's heartbeats, with the times of their last and next slot. Raises NotFound."""
        from watchbill.store import heartbeats  # with the models of the API

        keys = self.keys(crew)
        await self._current(keys)
        return await heartbeats.all_of(self._redis, keys)

    async def heartbeat_reports(self, crew: str, *, most: int = 10) -> list[HeartbeatReport]:
        """The crew's heartbeats, each with its next times and what became of what it fired last, at most `most` of
        both (100 of what was fired). Raises NotFound, NewerRecord."""
        from watchbill.store import fired  # with the models of the API

        arguments.count(most, "most")
        keys = self.keys(crew)
        await self._current(keys)
        now = datetime.now(UTC)  # noqa: TID251 - shell
        found = await fired.reports(self._redis, keys, now=now, most=most)
        held = await definitions.identity(self._redis, keys)
        found = [replace(report, managed=bool(held.owner)) for report in found]
        if held.suspended:
            at_rest = {"suspended": True, "crew_suspended": not held.hold, "hold": held.hold, "next": ()}
            return [replace(report, **at_rest) for report in found]  # type: ignore[arg-type]
        return found

    async def delete(self, crew: str, *, heartbeat: str | None = None) -> None:
        """Removes the crew with all its work, results, events and heartbeats; its workers end. With `heartbeat`: only
        the heartbeat; work that it has submitted stays.

        After an error the call may be repeated. Raises NotFound, and Conflict when an operator manages the crew.
        """
        keys = self._door(crew, heartbeat=heartbeat)
        if heartbeat is not None:
            await self._delete_heartbeat(keys, heartbeat)
            return
        held = await self._refuse_managed(keys, "delete crew", _split(keys)[1])
        if not (held.uid or held.leaving) and await self._record(keys) is None:
            await self._current(keys)  # raises NotFound
        if held.uid or held.leaving:
            await definitions.delete(self._redis, keys, held.uid or held.leaving)
        self._crews.pop(keys.crew, None)
        namespace, name = _split(keys)
        with contextlib.suppress(NotFound):
            await self._records(namespace).delete_crew(name)

    # ------------------------------------------------------------ within

    def _declared(
        self, sources: str | Path | Crew | Heartbeat | Iterable[str | Path | Crew | Heartbeat]
    ) -> tuple[list[tuple[names.CrewKeys, CrewDefinition, bool | None]], list[tuple[names.CrewKeys, Heartbeat]]]:
        """The crews, each with whether it is to be suspended (None: as it is), and the heartbeats, each with the keys
        of its crew. Raises InvalidInput."""
        from watchbill import local  # which reads files; what it brings along, only who applies pays for
        from watchbill.api import Crew, Heartbeat
        from watchbill.plan import declared

        given = [sources] if isinstance(sources, str | Path | Crew | Heartbeat) else sources
        for one in arguments.listed(given, "sources"):
            if not isinstance(one, Path | Crew | Heartbeat):
                texts.check(("sources",), sources=one)
        crews = [one for one in given if isinstance(one, Crew)]
        beats = [one for one in given if isinstance(one, Heartbeat)]
        if paths := [Path(one) for one in given if isinstance(one, str | Path)]:
            read = local.load(local.files(paths), to_store=True)
            crews, beats = [*crews, *read.crews], [*beats, *read.heartbeats]
        if not (crews or beats):
            raise InvalidInput(Problem("there is neither a crew nor a heartbeat", "Name one.", path="sources"))

        def keys(resource: Crew | Heartbeat, name: str) -> names.CrewKeys:
            return self.keys(f"{resource.metadata.namespace or self._namespace}/{name}")

        made: list[tuple[names.CrewKeys, CrewDefinition, bool | None]] = []
        problems: list[Problem] = []
        for crew in crews:
            try:
                made.append((keys(crew, crew.name), declared.definition(crew), crew.suspends))
            except InvalidInput as error:
                problems += [replace(p, source=f"crew {crew.name!r}") for p in error.problems]
        both: list[Crew | Heartbeat] = [*crews, *beats]
        known = Counter((one.kind, one.metadata.namespace or self._namespace, one.name) for one in both)
        for (kind, _, name), times in known.items():
            if times > 1:
                reason, source = f"this name is given {times} times", f"{kind.lower()} {name!r}"
                problems.append(Problem(reason, "Give each a name of its own.", path="metadata.name", source=source))
        if problems:
            raise InvalidInput(problems)
        return made, [(keys(beat, beat.spec.crew_ref.name), beat) for beat in beats]

    async def _refuse_misfit(self, keys: names.CrewKeys, beat: Heartbeat, known: dict[str, CrewDefinition]) -> None:
        """Raises InvalidInput for a heartbeat whose crew is missing, or has no such agent or input."""
        from watchbill.plan import declared

        definition = known.get(keys.crew)
        if definition is None:
            await self._refuse_managed(keys, "apply", "-f FILE")
            with contextlib.suppress(NotFound):
                definition = (await self._current(keys)).definition
        if problems := declared.misfits(beat, definition):
            raise InvalidInput([replace(p, source=f"heartbeat {beat.name!r}") for p in problems])

    async def _refuse_managed(self, keys: names.CrewKeys, verb: str, what: str) -> definitions.Identity:
        """Raises Conflict when an operator manages the crew; else returns its identity."""
        held = await definitions.identity(self._redis, keys)
        owner = held.owner
        if not owner and (record := await self._record(keys)) is not None:
            annotations = record.metadata.get("annotations")
            owner = str(annotations.get(cluster_names.ANNOTATION_OWNER, "")) if isinstance(annotations, dict) else ""
        if owner:
            raise Conflict(
                f"the operator {owner!r} keeps crew {keys.crew!r}, as its Crew in Kubernetes says. "
                f"Use: kubectl {verb} -n {_split(keys)[0]} {what}"
            )
        return held

    async def _put_crew(self, keys: names.CrewKeys, definition: CrewDefinition, suspended: bool | None) -> Change:
        before, held = await self._record(keys), await definitions.identity(self._redis, keys)
        same = before is not None and (before.content(), before.metadata) == (definition.content(), definition.metadata)
        same = same and suspended in (None, bool(held.suspended))
        if same and held.uid and (await self._current(keys)).digest == definition.digest():
            return "unchanged"
        uid = await definitions.apply(self._redis, keys, definition, suspended=suspended)
        await self._records(_split(keys)[0]).save_crew(definition.model_copy(update={"crew_id": uid}))
        self._crews.pop(keys.crew, None)
        return "configured" if held.uid else "created"

    async def _put_heartbeat(self, keys: names.CrewKeys, beat: Heartbeat) -> Change:
        from watchbill.store import heartbeats

        uid = (await self._current(keys)).uid
        before = await heartbeats.get(self._redis, keys, beat.name)
        now = datetime.now(UTC)  # noqa: TID251 - shell
        after = await heartbeats.apply(self._redis, keys, uid, beat, now=now)
        if before is None or before.uid != uid:
            return "created"
        return "unchanged" if before.generation == after.generation else "configured"

    async def _delete_heartbeat(self, keys: names.CrewKeys, name: str) -> None:
        from watchbill.store import heartbeats

        await self._refuse_managed(keys, "delete heartbeat", name)
        current = await self._current(keys)
        known = [state.name for state in await heartbeats.all_of(self._redis, keys)]
        if name not in known:
            raise NotFound(f"crew {keys.crew!r} has no heartbeat {name!r}; it has: {', '.join(known) or 'none'}")
        await heartbeats.remove(self._redis, keys, current.uid, name)

    def _records(self, namespace: str) -> CrewRedis:
        return CrewRedis(client=self._redis, tenant=namespace, strict=True)

    async def _record(self, keys: names.CrewKeys) -> CrewDefinition | None:
        """The stored record of the crew; None if there is none, or it can't be read."""
        namespace, name = _split(keys)
        records = self._records(namespace)
        try:
            return await records.load_crew(name) if await records.crew_exists(name) else None
        except (NotFound, InvalidInput):
            return None


def _split(keys: names.CrewKeys) -> Sequence[str]:
    """The namespace and the name of the crew."""
    return keys.crew.split("/", 1)
