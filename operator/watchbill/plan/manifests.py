"""Builders for each child object of a Crew: full intent, in the form that server-side apply takes. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

from watchbill import cluster_names
from watchbill.api import Crew
from watchbill.plan.children import ANNOTATION_CONFIG, ANNOTATION_TEMPLATE

Object = dict[str, Any]

GRACE_SECONDS: Final = 60
"""The pod's; the worker hands back five seconds earlier."""
START_SECONDS: Final = 300
"""Seconds that a worker may take to become ready: its image may be large, its node may have to be made first. For as
long it may leave its liveness probe without an answer: many that start at once on a busy node take minutes, and what is
restarted meanwhile begins anew, and keeps the node busy."""
_LIVENESS_SECONDS: Final = 10
"""Seconds between two liveness probes."""

SAFE_TO_EVICT: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict"
"""With "false" the cluster's autoscaler removes no node with such a pod: a task would lose what it has done so far. A
crew's template may say "true"."""
TMP_SIZE: Final = "1Gi"
"""Size of /tmp, unless the template sets another: without a limit it could fill the node's disk."""

_BY_NAME: Final = frozenset({"containers", "initContainers", "volumes", "env"})
_EXCLUDES: Final = frozenset({"value", "valueFrom"})
"""Fields of an env variable that exclude each other: a variable with one of them replaces the one of that name."""
_OURS: Final = (
    "WATCHBILL_REDIS_URL",
    "WATCHBILL_CREW",
    "WATCHBILL_REVISION",
    "WATCHBILL_HEALTH_HOST",
    "WATCHBILL_HEALTH_PORT",
    "WATCHBILL_ALLOW_MODULES",
)


def _minute_without_answer(template: Object) -> None:
    """Until then a worker that did not answer for a minute was restarted, even while it still started."""
    template["spec"]["containers"][0]["livenessProbe"]["failureThreshold"] = 6


BEFORE: Final[tuple[Callable[[Object], None], ...]] = (_minute_without_answer,)
"""The differences between the versions of the template. Number n turns a template of version n + 2 into one of version
n + 1, in place, before the crew's own is merged into it. Whoever gives the template another default adds the function
that takes it away again, so that workers which run already are not replaced for it, and a golden file
(tests/plan/golden). Defaults of the operator's settings are no part of a version: workers follow these at once."""


class Revision(NamedTuple):
    """The workers' pods of one Deployment, told apart from those of others."""

    name: str
    """Eight hex digits."""
    config: Mapping[str, str]
    """Secrets and ConfigMaps that they were made with → the state of each (plan/references.py)."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """The operator's settings for workers."""

    image: str
    """Image of crews that name none."""
    resources: Mapping[str, Any] = field(default_factory=dict)
    """Resources of containers whose template names none."""
    allow_modules: str = ""
    """WATCHBILL_ALLOW_MODULES. Empty: as the image has it."""
    log_format: str = "text"
    """WATCHBILL_LOG_FORMAT, where it isn't the default."""
    tracing: Mapping[str, str] = field(default_factory=dict)
    """Variables of tracing, by name."""
    user_per_crew: bool = False
    """Each crew has a user of its own in the store."""

    def has_own_user(self, crew: Crew) -> bool:
        """Returns whether the operator makes this crew's user. A crew that names another Secret has one by hand."""
        return self.user_per_crew and crew.spec.workers.redis_secret_ref.name == cluster_names.REDIS_SECRET

    def redis_secret(self, crew: Crew) -> str:
        """Returns the name of the Secret with the URL by which the crew's workers reach the store."""
        own = self.has_own_user(crew)
        return cluster_names.redis_secret(crew.name) if own else crew.spec.workers.redis_secret_ref.name


def labels(crew: Crew) -> dict[str, str]:
    """The labels of every child object."""
    return {
        cluster_names.LABEL_NAME: "watchbill",
        cluster_names.LABEL_COMPONENT: "worker",
        cluster_names.LABEL_MANAGED_BY: "watchbill",
        cluster_names.LABEL_CREW: crew.name,
    }


def selector(crew: str) -> str:
    """The label selector of a crew's worker pods, of all revisions."""
    return f"{cluster_names.LABEL_COMPONENT}=worker,{cluster_names.LABEL_CREW}={crew}"


def owner(crew: Crew, uid: str) -> list[Object]:
    """Exact, because the garbage collector deletes a child at once whose owner it can't find."""
    return [
        {
            "apiVersion": crew.api_version,
            "kind": crew.kind,
            "name": crew.name,
            "uid": uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


def service_account(crew: Crew, namespace: str, uid: str) -> Object:
    """An identity without rights, so that a crew's pods don't run as the namespace's default one."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {
            "name": cluster_names.worker_service_account(crew.name),
            "namespace": namespace,
            "labels": labels(crew),
            "ownerReferences": owner(crew, uid),
        },
        "automountServiceAccountToken": False,
    }


def newest() -> int:
    """Returns the version of the template that new workers get."""
    return 1 + len(BEFORE)


def pod_template(crew: Crew, namespace: str, defaults: Defaults, version: int | None = None) -> Object:
    """The workers' pods, without the label of their revision. `version`: of the template; default: the newest."""
    template = _template(crew, namespace, defaults)
    for step in reversed(BEFORE[(version or newest()) - 1 :]):
        step(template)
    (container,) = template["spec"]["containers"]
    merged: Object = merge(template, crew.spec.workers.template)
    # What tells a worker who it is and what it trusts, and the selector's labels, are not the template's to change. A
    # template that makes no sense stays as it is: the API server says best what is wrong with it.
    if (found := _labels(merged)) is not None:
        found |= labels(crew)
    spec = merged.get("spec")
    containers = spec.get("containers") if isinstance(spec, dict) else None
    for one in containers if isinstance(containers, list) else []:
        if isinstance(one, dict) and one.get("name") == cluster_names.WORKER_CONTAINER:
            one["env"] = _with_ours(one.get("env", []), container["env"])
            if defaults.resources:  # as a whole: a limit of the one may be below a request of the other
                one.setdefault("resources", copied(dict(defaults.resources)))
    return merged


def _template(crew: Crew, namespace: str, defaults: Defaults) -> Object:
    """The newest template, before the crew's own is merged into it."""
    workers = crew.spec.workers
    health = {"port": cluster_names.WORKER_HEALTH_PORT}
    container: Object = {
        "name": cluster_names.WORKER_CONTAINER,
        "image": workers.image or defaults.image,
        "env": _env(crew, namespace, defaults),
        "ports": [{"name": "health", "containerPort": cluster_names.WORKER_HEALTH_PORT, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/readyz", **health}, "periodSeconds": 2},
        "livenessProbe": {
            "httpGet": {"path": "/healthz", **health},
            "periodSeconds": _LIVENESS_SECONDS,
            "failureThreshold": START_SECONDS // _LIVENESS_SECONDS,
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - the pod's own
    }
    if workers.env_from:
        container["envFrom"] = [e.model_dump(by_alias=True, exclude_defaults=True) for e in workers.env_from]
    template: Object = {
        "metadata": {"labels": labels(crew), "annotations": {SAFE_TO_EVICT: "false"}},
        "spec": {
            "serviceAccountName": cluster_names.worker_service_account(crew.name),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "securityContext": {
                "runAsNonRoot": True,  # which user, the image says: some clusters give each namespace its own
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": TMP_SIZE}}],
        },
    }
    _mount_delivery_secrets(crew, template["spec"])
    return template


def _env(crew: Crew, namespace: str, defaults: Defaults) -> list[Object]:
    secret = defaults.redis_secret(crew)
    env: list[Object] = [
        {
            "name": "WATCHBILL_REDIS_URL",
            "valueFrom": {"secretKeyRef": {"name": secret, "key": cluster_names.REDIS_SECRET_KEY}},
        },
        {"name": "WATCHBILL_CREW", "value": f"{namespace}/{crew.name}"},
        {
            "name": "WATCHBILL_REVISION",
            "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{cluster_names.LABEL_REVISION}']"}},
        },
        {"name": "WATCHBILL_HEALTH_HOST", "value": "0.0.0.0"},  # noqa: S104 - the pod's own address
        {"name": "WATCHBILL_HEALTH_PORT", "value": str(cluster_names.WORKER_HEALTH_PORT)},
        {"name": "WATCHBILL_GRACE_SECONDS", "value": str(GRACE_SECONDS - 5)},
    ]
    if defaults.allow_modules:
        env.append({"name": "WATCHBILL_ALLOW_MODULES", "value": defaults.allow_modules})
    if defaults.log_format != "text":
        env.append({"name": "WATCHBILL_LOG_FORMAT", "value": defaults.log_format})
    env += [{"name": name, "value": value} for name, value in defaults.tracing.items()]
    return env


def _mount_delivery_secrets(crew: Crew, pod: Object) -> None:
    """Mounts the keys of Secrets that the crew's destinations name, each as a file, which the kubelet keeps up to date.
    A Secret that isn't there costs its deliveries, and not the workers."""
    keys: dict[str, list[str]] = {}
    for destination in crew.spec.delivery:
        for ref in destination.secret_keys():
            of_secret = keys.setdefault(ref.name, [])
            if ref.key not in of_secret:
                of_secret.append(ref.key)
    if not keys:
        return
    sources = [
        {
            "secret": {
                "name": name,
                "optional": True,
                "items": [{"key": key, "path": f"{name}/{key}"} for key in sorted(keys[name])],
            }
        }
        for name in sorted(keys)
    ]
    pod["volumes"].append({"name": "delivery", "projected": {"sources": sources}})
    mount = {"name": "delivery", "mountPath": cluster_names.DELIVERY_SECRETS, "readOnly": True}
    pod["containers"][0]["volumeMounts"].append(mount)


def _with_ours(env: Any, base: Sequence[Object]) -> Any:
    env = [] if env is None else env
    if not isinstance(env, list):
        return env  # for the API server to refuse
    ours = {entry["name"]: entry for entry in base if entry["name"] in _OURS}
    unset = [name for name in _OURS if name not in ours]
    env = [entry for entry in env if not (isinstance(entry, dict) and entry.get("name") in unset)]
    return merge({"env": env}, {"env": list(ours.values())})["env"]


def revision(template: Mapping[str, Any], *more: Any) -> str:
    """Eight hex digits by which pods of different templates are told apart. `more`: what else tells them apart."""
    text = "".join(json.dumps(part, sort_keys=True) for part in (template, *more))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def deployment(
    crew: Crew, namespace: str, uid: str, template: Object, replicas: int, made: Revision | None = None
) -> Object:
    """The Deployment of one revision. `replicas` is always there: an apply without it would remove it. `made`: what
    the pods are called and made with, if that is not said by the template alone."""
    plain = revision(template)
    of, config = made or Revision(plain, {})
    selected = {**labels(crew), cluster_names.LABEL_REVISION: of}
    template = copied(template)
    if (found := _labels(template)) is not None:
        found[cluster_names.LABEL_REVISION] = of
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": cluster_names.worker_deployment(crew.name, of),
            "namespace": namespace,
            "labels": selected,
            "annotations": {
                ANNOTATION_TEMPLATE: plain,
                ANNOTATION_CONFIG: json.dumps(dict(config), sort_keys=True),
            },
            "ownerReferences": owner(crew, uid),
        },
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 0,
            "progressDeadlineSeconds": START_SECONDS,
            "selector": {"matchLabels": {cluster_names.LABEL_CREW: crew.name, cluster_names.LABEL_REVISION: of}},
            "template": template,
        },
    }


def _labels(template: Object) -> dict[str, Any] | None:
    metadata = template.get("metadata")
    found = metadata.get("labels") if isinstance(metadata, dict) else None
    return found if isinstance(found, dict) else None


def copied(value: Any) -> Any:
    """A copy of what came of JSON. copy.deepcopy takes three times as long, for what can't be in that."""
    if isinstance(value, dict):
        return {key: copied(one) for key, one in value.items()}
    return [copied(one) for one in value] if isinstance(value, list) else value


def merge(base: Any, over: Any, key: str = "") -> Any:
    """`over` laid upon `base`: maps deeply; containers, volumes and env by name; volumeMounts by mountPath; all other
    lists, and everything else, as a whole."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{k: merge(base[k], v, k) if k in base else copied(v) for k, v in over.items()}}
    if isinstance(base, list) and isinstance(over, list):
        if key in _BY_NAME:
            return _merge_by("name", base, over)
        if key == "volumeMounts":
            return _merge_by("mountPath", base, over)
    return copied(over)


def _merge_by(field: str, base: Sequence[Any], over: Sequence[Any]) -> list[Any]:
    merged: dict[str, Any] = {}
    unnamed = []
    for item in (*base, *over):
        name = item.get(field) if isinstance(item, dict) else None
        if not isinstance(name, str):
            unnamed.append(item)  # for the API server to refuse, which says it best
        elif name in merged and not _EXCLUDES & set(item):
            merged[name] = merge(merged[name], item)
        else:
            merged[name] = copied(item)
    return [*merged.values(), *unnamed]


def contains(observed: Any, desired: Any, *, quantities: bool = False) -> bool:
    """Returns whether everything desired is observed: all that we apply is there, whatever the server and others added.

    `quantities`: these are amounts of resources, of which the server keeps a canonical form.
    """
    if quantities and isinstance(desired, str | int | float) and isinstance(observed, str | int | float):
        return observed == desired or (amount(observed) is not None and amount(observed) == amount(desired))
    if isinstance(desired, dict):
        return isinstance(observed, dict) and all(
            k in observed
            and (
                v == observed[k] if k in _WHOLE else contains(observed[k], v, quantities=quantities or k in _RESOURCES)
            )
            for k, v in desired.items()
        )
    if isinstance(desired, list):
        if not isinstance(observed, list) or len(observed) < len(desired):
            return not desired and not observed
        for key in _LIST_KEYS:
            if desired and all(isinstance(item, dict) and key in item for item in desired):
                known = {item.get(key): item for item in observed if isinstance(item, dict)}
                return all(item[key] in known and contains(known[item[key]], item) for item in desired)
        return len(observed) == len(desired) and all(map(contains, observed, desired))
    return bool(observed == desired)


_RESOURCES: Final = frozenset({"resources", "sizeLimit", "overhead"})
"""Fields under which quantities are."""
_LIST_KEYS: Final = ("mountPath", "name")
"""Fields that tell the items of a list apart. A volume may be mounted more than once."""
_WHOLE: Final = frozenset({"nodeSelector", "secretKeyRef", "configMapKeyRef"})
"""Maps that the API server keeps as a whole, and without defaults: what is added to one changes what we applied."""
_QUANTITY: Final = re.compile(r"([+-]?[0-9.]+)(?:([eE][+-]?[0-9]+)|([numkMGTPE]|[KMGTPE]i)?)")
_SCALE: Final = {
    **{
        suffix: Decimal(10) ** (3 * power)
        for power, suffix in enumerate(("n", "u", "m", "", "k", "M", "G", "T", "P", "E"), -3)
    },
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", 1)},
}


def amount(quantity: str | float) -> Decimal | None:
    """Returns the amount of a Kubernetes quantity (500m, 1Gi, 0.5); None where it is none."""
    match = _QUANTITY.fullmatch(str(quantity))
    if match is None:
        return None
    number, exponent, suffix = match.groups()
    try:
        return Decimal(number + (exponent or "")) * _SCALE[suffix or ""]
    except InvalidOperation:
        return None
