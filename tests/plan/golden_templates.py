"""Crews whose pod templates are kept as golden files, one for each version of the template.

A file that was released never changes. Whoever adds a version writes its file by running this one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from watchbill.api import Crew
from watchbill.plan import manifests

FOLDER: Final = Path(__file__).parent / "golden"

_OWN: Final = {
    "metadata": {"annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"}},
    "spec": {
        "nodeSelector": {"disk": "fast"},
        "containers": [
            {
                "name": "worker",
                "env": [
                    {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "a"}}},
                    {"name": "WATCHBILL_CREW", "value": "other/crew"},
                ],
                "volumeMounts": [{"name": "agents", "mountPath": "/agents"}],
            },
            {"name": "beside", "image": "beside:1"},
        ],
        "volumes": [{"name": "agents", "configMap": {"name": "agents"}}],
    },
}
_HOOK: Final = {"urlFrom": {"secretKeyRef": {"name": "hooks", "key": "url"}}}
CASES: Final[dict[str, tuple[dict[str, Any], manifests.Defaults]]] = {
    "plain": ({}, manifests.Defaults("watchbill:1")),
    "settings": ({}, manifests.Defaults("watchbill:1", {"limits": {"memory": "1Gi"}}, "acme.agents")),
    "all": (
        {
            "workers": {
                "image": "mine:2",
                "envFrom": [{"secretRef": {"name": "keys"}}, {"prefix": "A_", "configMapRef": {"name": "conf"}}],
                "redisSecretRef": {"name": "store"},
                "template": _OWN,
            },
            "delivery": [{"name": "team", "teams": _HOOK}],
        },
        manifests.Defaults("watchbill:1", {"limits": {"memory": "1Gi"}}, "acme.agents"),
    ),
}
"""Name → what a crew's spec has besides its agents, and the operator's settings."""


def render(version: int) -> dict[str, Any]:
    """Name of each case → its template of that version, and the revision that Deployments are named by."""
    rendered = {}
    for name, (spec, defaults) in CASES.items():
        agents = [{"name": "a", "class": "EchoAgent"}]
        crew = Crew.model_validate({"metadata": {"name": "blog"}, "spec": {"agents": agents, **spec}})
        template = manifests.pod_template(crew, "team", defaults, version)
        rendered[name] = {"revision": manifests.revision(template), "template": template}
    return rendered


def file(version: int) -> Path:
    return FOLDER / f"template-{version}.yaml"


if __name__ == "__main__":
    newest = manifests.newest()
    file(newest).write_text(yaml.safe_dump(render(newest), sort_keys=True, width=110), encoding="utf-8")
