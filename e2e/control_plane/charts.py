"""Helm and kubeconform on a control plane, for the tests of the charts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from e2e.cluster import machine, programs
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.kubectl import Kubectl

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "charts" / "watchbill"
CREW_CHART: Final = ROOT / "charts" / "crew"


Found = dict[str, list[dict[str, str]]]
"""The findings of each check of `watchbill doctor`."""


class Helm:
    """Helm as a function; `values` become a file. Raises ClusterError with what it said."""

    def __init__(self, plane: ControlPlane, program: Path | None = None) -> None:
        """`program`: another Helm than the newest."""
        self._program = program or programs.path("helm")
        homes = ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
        self._environment = {home: str(plane.folder / home) for home in homes}
        self._environment["KUBECONFIG"] = str(plane.kubeconfig)

    def __call__(self, *words: str | Path, values: dict[str, Any] | None = None) -> str:
        files = [] if values is None else ["--values", "-"]
        stdin = json.dumps(values or {})
        return machine.run([self._program, *words, *files], stdin=stdin, env=self._environment)


def write_schemas(kubectl: Kubectl, folder: Path) -> str:
    """Writes the API server's own schemas, one file per kind, with every unknown field refused.

    Returns where kubeconform finds them.
    """
    definitions = json.loads(kubectl("get", "--raw", "/openapi/v2"))["definitions"]
    for definition in definitions.values():
        if "properties" in definition:
            definition.setdefault("additionalProperties", False)
    for name in ("util.intstr.IntOrString", "api.resource.Quantity"):
        definitions[f"io.k8s.apimachinery.pkg.{name}"]["type"] = ["string", "integer", "number"]
    (folder / "all.json").write_text(json.dumps({"definitions": definitions}))
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", []):
            file = "-".join(filter(None, (kind["kind"], kind["group"].partition(".")[0], kind["version"]))).lower()
            reference = {"$ref": f"file://{folder}/all.json#/definitions/{name}"}
            (folder / f"{file}.json").write_text(json.dumps(reference))
    return f"{folder}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"


def conform(rendered: str, schemas: str, *, skip: str = "") -> dict[str, int]:
    """Returns kubeconform's counts: valid, invalid, errors, skipped. Raises ClusterError if something is invalid."""
    command: list[str | Path] = [programs.path("kubeconform"), "-strict", "-summary", "-output=json"]
    command += [f"-schema-location={schemas}", *([f"-skip={skip}"] if skip else [])]
    return dict(json.loads(machine.run(command, stdin=rendered))["summary"])


def objects(rendered: str) -> dict[tuple[str, str], Any]:
    """Returns what a chart renders, by kind and name. Roles and policies of one name are told apart by namespace."""
    documents = [document for document in yaml.safe_load_all(rendered) if document]
    found = {}
    for document in documents:
        name, kind = document["metadata"]["name"], document["kind"]
        if kind in ("Role", "RoleBinding", "NetworkPolicy"):
            name = f"{name}@{document['metadata']['namespace']}"
        found[kind, name] = document
    assert len(found) == len(documents)
    return found


def doctor(kubeconfig: Path, words: list[str], environment: Mapping[str, str]) -> tuple[int, Found]:
    """Runs `watchbill doctor` with these words and variables. Returns its exit code and what it found."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("WATCHBILL_", "KUBE"))}
    done = subprocess.run(
        [sys.executable, "-m", "watchbill", *words, "--output=json"],
        env={**own, **environment, "KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout, done.stderr
    found: Found = {}
    for finding in json.loads(done.stdout):
        found.setdefault(finding["check"], []).append(finding)
    return done.returncode, found
