"""The Secrets and ConfigMaps that a pod template refers to, and what has become of them since pods were made. Pure.

Each is called `Secret/keys` or `ConfigMap/agents` here. Its state is a hash of uid and resourceVersion, which are read
without what is in it; or MISSING.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from watchbill import cluster_names

MOST: Final = 100
"""So many references of one crew are looked at, those that come first in the alphabet."""
MISSING: Final = ""

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
"""Any other name is for the API server to refuse."""


def of_template(template: Mapping[str, Any]) -> dict[str, bool]:
    """Returns the Secrets and ConfigMaps that make up the pods' environment and volumes → whether pods can do without.

    The Secrets of destinations are left out: workers read these files anew for each delivery. So are imagePullSecrets,
    which running pods no longer need.
    """
    found: dict[str, bool] = {}
    spec = _map(template.get("spec"))
    containers = [_map(c) for kind in ("initContainers", "containers") for c in _list(spec.get(kind))]
    for kind, source, field in (*_of_environment(containers), *_of_volumes(spec, containers)):
        name = source.get(field)
        if isinstance(name, str) and _NAME.fullmatch(name):
            key = f"{kind}/{name}"
            found[key] = found.get(key, True) and source.get("optional") is True
    return {key: found[key] for key in sorted(found)[:MOST]}


def state(metadata: Mapping[str, Any]) -> str:
    """Returns what tells this state of an object from others: also from those of a former object of its name."""
    text = f"{metadata['uid']}/{metadata['resourceVersion']}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def described(keys: Mapping[str, Any] | list[str] | tuple[str, ...]) -> str:
    """Returns the objects in words: `Secret 'keys', ConfigMap 'agents'`."""
    shown = [f"{kind} {name!r}" for kind, _, name in (key.partition("/") for key in list(keys)[:10])]
    return ", ".join(shown) + (f" and {len(keys) - 10} more" if len(keys) > 10 else "")


def read(config: str) -> dict[str, str]:
    """Returns the states that a Deployment's annotation names; none where it is not ours."""
    try:
        found = json.loads(config or "{}")
    except ValueError:
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


_Source = tuple[str, Mapping[str, Any], str]
"""(kind, the part of the template that refers to it, the field with its name)"""


def _of_environment(containers: list[Mapping[str, Any]]) -> Iterator[_Source]:
    for container in containers:
        for variable in _list(container.get("env")):
            value = _map(_map(variable).get("valueFrom"))
            yield "Secret", _map(value.get("secretKeyRef")), "name"
            yield "ConfigMap", _map(value.get("configMapKeyRef")), "name"
        for source in _list(container.get("envFrom")):
            yield "Secret", _map(_map(source).get("secretRef")), "name"
            yield "ConfigMap", _map(_map(source).get("configMapRef")), "name"


def _of_volumes(spec: Mapping[str, Any], containers: list[Mapping[str, Any]]) -> Iterator[_Source]:
    mounts = [_map(mount) for container in containers for mount in _list(container.get("volumeMounts"))]
    read_anew = {m.get("name") for m in mounts if m.get("mountPath") == cluster_names.DELIVERY_SECRETS}
    read_anew -= {m.get("name") for m in mounts if m.get("mountPath") != cluster_names.DELIVERY_SECRETS}
    for volume in map(_map, _list(spec.get("volumes"))):
        if volume.get("name") in read_anew:
            continue
        yield "Secret", _map(volume.get("secret")), "secretName"
        yield "ConfigMap", _map(volume.get("configMap")), "name"
        for source in _list(_map(volume.get("projected")).get("sources")):
            yield "Secret", _map(_map(source).get("secret")), "name"
            yield "ConfigMap", _map(_map(source).get("configMap")), "name"


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
