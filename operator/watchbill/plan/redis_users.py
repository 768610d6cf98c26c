"""The store's user of each crew: what its Secret should say, and which passwords are valid. Pure.

The Secret is the only place that has the password. The store gets its hash. After a rotation the former password stays
valid for a while, because workers that are busy go on with it, and may have to connect again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from watchbill import cluster_names
from watchbill.plan.manifests import contains

Object = dict[str, Any]

OVERLAP: Final = timedelta(days=1)
"""The former password is valid for so long, unless the next rotation comes first."""


@dataclass(frozen=True, slots=True)
class Address:
    """The store, as a URL without credentials in two parts: what stands before them, and after."""

    scheme: str
    rest: str

    def url(self, user: str, password: str) -> str:
        """The URL for this user."""
        return f"{self.scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{self.rest}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that a crew's Secret depends on."""

    name: str
    """The crew's name."""
    namespace: str
    uid: str
    user: str
    address: Address
    token: str
    """The value of the Crew's annotation that asks for another password; empty where there is none."""
    rotate: timedelta | None
    """The age at which a password is replaced; None: never."""


@dataclass(frozen=True, slots=True)
class Credential:
    """The passwords of a user, as the store knows them."""

    hashes: tuple[str, ...]
    """SHA-256 of the passwords that are valid."""
    until: datetime | None
    """The time at which this changes by itself; None: it doesn't."""

    def lasts(self, now: datetime) -> bool:
        """Returns whether this is still so."""
        return self.until is None or now < self.until


@dataclass(frozen=True, slots=True)
class Step:
    """The next step for one crew."""

    credential: Credential
    secret: Object | None = None
    """The Secret to write, once the store knows the credential; None: it says what it should."""


class NotOurs(Exception):
    """The Secret belongs to somebody else; the message says what to do."""


def step(seen: Mapping[str, Any] | None, wanted: Wanted, fresh: str, now: datetime) -> Step:
    """Returns what is to be done. `seen`: the Secret as the API server has it. `fresh`: a password that nobody knows.

    Raises NotOurs.
    """
    if seen is None:
        return _written(wanted, fresh, (_hash(fresh),), now, version="")
    metadata = seen["metadata"]
    if not any(one.get("uid") == wanted.uid for one in metadata.get("ownerReferences") or ()):
        raise NotOurs(
            f"the Secret {metadata['name']!r} in namespace {wanted.namespace!r} is not of this crew, and is left as it "
            "is. Delete it, or name another in workers.redisSecretRef, or give the crew another name"
        )
    version, said = metadata["resourceVersion"], metadata.get("annotations") or {}
    known = _password(seen, wanted.user)
    if known is None:  # somebody wrote another URL into it
        return _written(wanted, fresh, (_hash(fresh),), now, version=version)
    made = _moment(said.get(cluster_names.ANNOTATION_ROTATED_AT)) or now
    is_asked = wanted.token not in ("", said.get(cluster_names.ANNOTATION_ROTATE))
    if is_asked or (wanted.rotate is not None and now >= made + wanted.rotate):
        return _written(wanted, fresh, (_hash(fresh), _hash(known)), now, version=version)
    former = said.get(cluster_names.ANNOTATION_FORMER)
    hashes = (_hash(known), former) if former and now < made + OVERLAP else (_hash(known),)
    step = _written(wanted, known, hashes, made, version=version)
    # Else the store has another address by now, or somebody has changed the Secret.
    return Step(step.credential) if contains(seen, step.secret) else step


def serves(secret: Mapping[str, Any], wanted: Wanted) -> bool:
    """Returns whether pods can work with the Secret as it is, though something of it is to be changed."""
    password = _password(secret, wanted.user)
    return password is not None and _decoded(secret) == wanted.address.url(wanted.user, password)


def _written(wanted: Wanted, password: str, hashes: tuple[str, ...], made: datetime, *, version: str) -> Step:
    annotations = {cluster_names.ANNOTATION_ROTATED_AT: made.isoformat(timespec="seconds")}
    if wanted.token:
        annotations[cluster_names.ANNOTATION_ROTATE] = wanted.token
    if len(hashes) > 1:
        annotations[cluster_names.ANNOTATION_FORMER] = hashes[1]
    labels = {cluster_names.LABEL_MANAGED_BY: "watchbill", cluster_names.LABEL_CREW: wanted.name}
    url = wanted.address.url(wanted.user, password)
    secret: Object = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": cluster_names.redis_secret(wanted.name),
            "namespace": wanted.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [
                {
                    "apiVersion": f"{cluster_names.API_GROUP}/{cluster_names.API_VERSION}",
                    "kind": "Crew",
                    "name": wanted.name,
                    "uid": wanted.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "type": "Opaque",
        "data": {cluster_names.REDIS_SECRET_KEY: base64.b64encode(url.encode()).decode()},
    }
    if version:
        secret["metadata"]["resourceVersion"] = version
    return Step(Credential(hashes, _changes(made, len(hashes) > 1, wanted.rotate)), secret)


def _changes(made: datetime, has_former: bool, rotate: timedelta | None) -> datetime | None:
    times = [*([made + OVERLAP] if has_former else []), *([made + rotate] if rotate is not None else [])]
    return min(times, default=None)


def _decoded(secret: Mapping[str, Any]) -> str:
    try:
        return base64.b64decode((secret.get("data") or {}).get(cluster_names.REDIS_SECRET_KEY) or "").decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _password(secret: Mapping[str, Any], user: str) -> str | None:
    """The password in the Secret's URL; None where that is no URL of this user."""
    userinfo, at, _ = urlsplit(_decoded(secret)).netloc.rpartition("@")
    name, colon, password = userinfo.partition(":")
    return unquote(password) if at and colon and password and unquote(name) == user else None


def _hash(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def _moment(said: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(said or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
