"""Keeps the newest state of each object that the API server has sent, in whatever order events and listings come.

Objects are kept without what the operator never reads. Versions are compared as numbers, which Kubernetes allows within
one kind.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from watchbill import cluster_names
from watchbill.controller.quotas import Quotas
from watchbill.plan import children
from watchbill.plan.quotas import Hard

Key = tuple[str, str]
"""(namespace, name)"""

Object = Mapping[str, Any]
Entry = tuple[Key, Key, int, Any]
"""An object's key, the crew that it belongs to, its version, and what is kept of it."""
T = TypeVar("T")


class Index(Generic[T]):
    """The objects of one kind, by name and by the crew that each belongs to."""

    def __init__(self) -> None:
        self._known: dict[Key, tuple[Key, int, T]] = {}
        self._of: dict[Key, set[Key]] = {}
        self._gone: dict[Key, int] | None = None
        """Objects that were deleted during a listing → version: the listing must not bring them back. None: no listing
        is under way."""

    def __contains__(self, key: Key) -> bool:
        return key in self._known

    def get(self, key: Key) -> T | None:
        found = self._known.get(key)
        return found[2] if found else None

    def of(self, crew: Key) -> list[T]:
        """Returns the crew's objects, sorted by name."""
        return [self._known[key][2] for key in sorted(self._of.get(crew, ()))]

    def crews(self) -> list[Key]:
        return list(self._of)

    def items(self) -> list[tuple[Key, T]]:
        return [(key, obj) for key, (_, _, obj) in self._known.items()]

    def is_known(self, key: Key, version: int) -> bool:
        """Returns whether this version of the object is known, or a newer one."""
        known = self._known.get(key)
        return known is not None and known[1] >= version

    def put(self, key: Key, crew: Key, version: int, obj: T) -> set[Key]:
        """Stores the object. Returns the crews that this concerns: none if this version of it is known as that crew's,
        as after a write of our own, or a newer one, or if nothing of it has changed that is kept."""
        known = self._known.get(key)
        if known is not None and (known[1] > version or known[:2] == (crew, version)):
            return set()
        concerned = self._remove(key) | {crew}
        self._known[key] = (crew, version, obj)
        self._of.setdefault(crew, set()).add(key)
        return set() if known is not None and (known[0], known[2]) == (crew, obj) else concerned

    def drop(self, key: Key, version: int) -> set[Key]:
        """Removes the object, which was gone as of that version. Returns the crews that this concerns."""
        if self._gone is not None:
            self._gone[key] = version
        known = self._known.get(key)
        return self._remove(key) if known is not None and known[1] <= version else set()

    def expect_listing(self) -> None:
        """A listing begins: deletions are noted until `listed`."""
        self._gone = {}

    def replace(self, namespace: str | None, version: int, listed: Iterable[tuple[Key, Key, int, T]]) -> set[Key]:
        """Takes over a listing of the namespace (None: of all), as of that version. Objects that aren't in it are gone.

        `listed`: the arguments of `put` for each object. Returns the crews that this concerns.
        """
        concerned: set[Key] = set()
        found = set()
        for key, crew, own, obj in listed:
            found.add(key)
            if (self._gone or {}).get(key, -1) < own:
                concerned |= self.put(key, crew, own, obj)
        for key, (_, own, _) in list(self._known.items()):
            if key not in found and own <= version and namespace in (None, key[0]):
                concerned |= self._remove(key)
        return concerned

    def listed(self) -> None:
        """The listing has ended, with or without success."""
        self._gone = None

    def _remove(self, key: Key) -> set[Key]:
        known = self._known.pop(key, None)
        if known is None:
            return set()
        crew = known[0]
        self._of[crew].discard(key)
        if not self._of[crew]:
            del self._of[crew]
        return {crew}


class Cache:
    """The Crews, their Heartbeats and their workers' Deployments; and the quotas, by which crews are counted."""

    def __init__(
        self, hard: Callable[[str], Hard] = lambda _: Hard(), wake: Callable[[Key], object] = lambda _: None
    ) -> None:
        """`hard(namespace)`: the bounds of a namespace. `wake(crew)` has a crew reconciled for which a quota has
        another outcome."""
        self.crews: Index[Object] = Index()
        self.heartbeats: Index[Object] = Index()
        self.deployments: Index[children.Child] = Index()
        self._kinds: dict[str, Index[Any]] = {
            "crews": self.crews,
            "heartbeats": self.heartbeats,
            "deployments": self.deployments,
        }
        self.quotas = Quotas(hard, self._pods, wake)

    def take(self, plural: str, kind: str, obj: Object) -> set[Key]:
        """Takes over an event of the watch, or an answer to a write. Returns the crews to reconcile."""
        index = self._kinds[plural]
        key = _key(obj)
        if kind == "DELETED":
            concerned = index.drop(key, _version(obj)) | ({key} if plural == "crews" else set())
        elif (crew := _crew_of(plural, obj)) is None:  # no longer labelled as a crew's
            concerned = index.drop(key, _version(obj))
        elif index.is_known(key, _version(obj)):  # as after a write of our own: what is kept of it costs much to make
            concerned = set()
        else:
            concerned = index.put(key, crew, _version(obj), _small(plural, obj))
        if plural == "crews":
            self._count(concerned)
        return concerned

    def adopt(self, crew: Key, deployment: Object, uid: str) -> bool:
        """Takes a Deployment for the crew's, whatever its labels say, if the crew of this uid owns it. Returns whether
        it is known as the crew's then: a newer version of it may be known as another's."""
        child = children.project(deployment)
        if child.owner != uid:
            return False
        self.deployments.put(_key(deployment), crew, _version(deployment), child)
        return any(known.name == child.name for known in self.deployments.of(crew))

    def expect_listing(self) -> None:
        for index in self._kinds.values():
            index.expect_listing()

    def listed(self) -> None:
        for index in self._kinds.values():
            index.listed()

    def replace(self, plural: str, namespace: str | None, version: int, listed: Iterable[Entry]) -> set[Key]:
        """Takes over a listing of that kind in that namespace (None: in all), as of that version. Returns the crews to
        reconcile. `listed`: what `entries` makes of its objects."""
        concerned = self._kinds[plural].replace(namespace, version, listed)
        if plural == "crews":
            self._count(concerned)
        return concerned

    def _count(self, crews: Iterable[Key]) -> None:
        for key in crews:
            if (seen := self.crews.get(key)) is not None:
                self.quotas.put(key, seen)
            else:
                self.quotas.drop(key)
        self.quotas.settle()

    def _pods(self, crew: Key) -> int:
        return sum(child.replicas for child in self.deployments.of(crew))


def entries(plural: str, objects: Iterable[Object]) -> list[Entry]:
    """Returns what is kept of objects of that kind. Those that belong to no crew are left out."""
    return [(_key(o), crew, _version(o), _small(plural, o)) for o in objects if (crew := _crew_of(plural, o))]


def _key(obj: Object) -> Key:
    return _shared(obj["metadata"]["namespace"]), _shared(obj["metadata"]["name"])


def _version(obj: Object) -> int:
    return int(obj["metadata"]["resourceVersion"])


def _crew_of(plural: str, obj: Object) -> Key | None:
    namespace, name = _key(obj)
    match plural:
        case "crews":
            return namespace, name
        case "heartbeats":
            return namespace, str(obj["spec"]["crewRef"]["name"])
        case _:
            labels = obj["metadata"].get("labels") or {}
            if labels.get(cluster_names.LABEL_COMPONENT) != "worker":
                return None
            crew = _owner(obj) or labels.get(cluster_names.LABEL_CREW)
            return (namespace, str(crew)) if crew else None


def _owner(obj: Object) -> str:
    """Returns the name of the Crew that controls the object; empty: none does. Anybody may change a label, and the
    crew that it names would delete the workers as those of a former crew."""
    for owner in obj["metadata"].get("ownerReferences") or ():
        group = str(owner.get("apiVersion", "")).partition("/")[0]
        if owner.get("controller") and (group, owner.get("kind")) == (cluster_names.API_GROUP, "Crew"):
            return str(owner.get("name", ""))
    return ""


def _small(plural: str, obj: Object) -> Any:
    """Leaves out managedFields and kubectl's copy of the object, which are larger than the rest."""
    if plural == "deployments":
        return children.project(obj)
    metadata = {k: v for k, v in obj["metadata"].items() if k != "managedFields"}
    return _shared({**obj, "metadata": {**metadata, "annotations": annotations_of(metadata)}})


def _shared(value: Any) -> Any:
    """Returns a copy in which equal texts are one. Each event brings texts of its own, the names of fields above all:
    of 10,000 crews these would take 50 MiB."""
    if type(value) is str:
        return sys.intern(value)
    if isinstance(value, dict):
        return {_shared(k): _shared(v) for k, v in value.items()}
    return [_shared(one) for one in value] if isinstance(value, list) else value


def annotations_of(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Returns the annotations of an object without kubectl's own."""
    found = metadata.get("annotations") or {}
    return {k: v for k, v in found.items() if not k.startswith("kubectl.kubernetes.io/")}
