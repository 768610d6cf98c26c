"""Watchbill on a cluster: its images built and put on the nodes, its chart installed with a Valkey of its own.

What is built gets a tag by its content, so that a changed image means changed pods. A cluster that is not kind's takes
its images from a registry: there E2E_OPERATOR_IMAGE, E2E_WORKER_IMAGE, E2E_WORKER_LLM_IMAGE and E2E_VALKEY_IMAGE name
them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import watchbill
from e2e.cluster import docker, images, machine, programs, recipe
from e2e.cluster.kind import Cluster
from e2e.cluster.machine import ClusterError, say
from watchbill import local_server

ROOT = recipe.HERE.parent.parent
CHART = ROOT / "charts" / "watchbill"
RELEASE = "watchbill"
BEFORE = "0900aef"
"""The release before this one, which tests upgrade from: a commit or tag of this repository. Set it anew at each
release."""
PUBLIC_VALKEY_IMAGE = "valkey/valkey:8.1"

_VALKEY = """\
ARG BASE
FROM $BASE
COPY valkey-server /usr/local/bin/
USER 999:999
ENTRYPOINT ["valkey-server"]
"""

NEXT = """\
kubectl create configmap log-triage --from-file=examples/log-triage
kubectl apply -f examples/log-triage/
kubectl wait crew/log-triage --for=condition=Ready
kubectl exec -i deploy/watchbill -- watchbill submit log-triage "What broke?" --wait \\
  --input log=@- < examples/log-triage/app.log
kubectl get crews,pods
kubectl delete crew log-triage
"""
"""Commands to try on an installed Watchbill, in the folder of the clone. README has the same lines."""


@dataclass(frozen=True)
class Images:
    """By full name and tag."""

    operator: str
    worker: str
    valkey: str
    worker_llm: str = ""
    """Empty: there is none."""

    @property
    def values(self) -> dict[str, Any]:
        """The chart's values that take these images."""
        operator, worker, valkey = (
            {"repository": name, "tag": tag}
            for name, _, tag in (image.rpartition(":") for image in (self.operator, self.worker, self.valkey))
        )
        return {"image": operator, "workers": {"image": worker}, "valkey": {"image": valkey}}


def prepared(cluster: Cluster) -> Images:
    """The images, on the nodes of a kind cluster, else as the environment names them."""
    if not cluster.kind_name:
        given = [os.environ.get(f"E2E_{name}_IMAGE", "") for name in ("OPERATOR", "WORKER")]
        if not all(given):
            fix = "Push what `make image` builds, and set E2E_OPERATOR_IMAGE and E2E_WORKER_IMAGE to their names."
            raise ClusterError("This cluster takes its images from a registry, and none are named", fix)
        more = (("VALKEY", PUBLIC_VALKEY_IMAGE), ("WORKER_LLM", ""))
        return Images(*given, *(os.environ.get(f"E2E_{name}_IMAGE", default) for name, default in more))
    with machine.lock("install"), docker.engine():
        operator, worker, worker_llm = _ours(ROOT, "operator", "worker", "worker-llm")
        with tempfile.TemporaryDirectory() as folder:
            context = Path(folder)
            shutil.copy(local_server.find_server(), context / "valkey-server")
            (context / "Dockerfile").write_text(_VALKEY)
            arguments = {"BASE": images.base_image()}
            valkey = built("valkey", dockerfile=context / "Dockerfile", context=context, arguments=arguments)
        made = Images(operator, worker, valkey, worker_llm)
        say("loading them")
        cluster.load(made.operator, made.worker, made.valkey, made.worker_llm)
        return made


def has_before() -> bool:
    """Returns whether this clone has the release before: a shallow one has not."""
    command = ["git", "-C", str(ROOT), "cat-file", "-e", f"{BEFORE}^{{commit}}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def prepared_before(cluster: Cluster, folder: Path, valkey: str) -> Images:
    """The images of the release before, on the nodes of a kind cluster, with the store of this one. Its files, and so
    its chart, are in `folder` afterwards."""
    archive = folder / "before.tar"
    machine.run(["git", "-C", ROOT, "archive", f"--output={archive}", BEFORE])
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    with machine.lock("install"), docker.engine():
        operator, worker = _ours(folder, "operator", "worker", prefix="before-")
        made = Images(operator, worker, valkey)
        cluster.load(made.operator, made.worker)
        return made


def _ours(source: Path, *targets: str, prefix: str = "") -> list[str]:
    """Builds these targets of the Dockerfile of these sources, and returns the images' names."""
    say(f"building the images of {source.name}")
    arguments = {"BASE": images.base_image(), "VERSION": watchbill.__version__}
    return [
        built(prefix + target, dockerfile=source / "Dockerfile", context=source, target=target, arguments=arguments)
        for target in targets
    ]


def install(
    cluster: Cluster,
    made: Images,
    *,
    namespace: str,
    values: Mapping[str, Any] | None = None,
    chart: Path = CHART,
) -> None:
    """Installs or upgrades the release with the bundled Valkey, and waits until all of it is ready."""
    given = {**made.values, **(values or {})}
    given["valkey"] = {"enabled": True, **given["valkey"]}
    words = ("upgrade", "--install", RELEASE, chart, f"--namespace={namespace}", "--wait", "--timeout=300s")
    helm(cluster, *words, values=given)


def helm(cluster: Cluster, *words: str | Path, values: Mapping[str, Any] | None = None) -> str:
    """Helm on that cluster; `values` become a file. Raises ClusterError with what it said."""
    built = programs.folder() / "helm"
    program = built if built.exists() else machine.which("helm")
    if not program:
        raise ClusterError("There is no Helm on this machine", "Install it: python -m e2e.cluster build helm")
    homes = {f"HELM_{home}_HOME": str(recipe.cache() / "helm") for home in ("CACHE", "CONFIG", "DATA")}
    files = [] if values is None else ["--values", "-"]
    return machine.run(
        [program, *words, *files],
        stdin=json.dumps(dict(values or {})),
        env={"KUBECONFIG": str(cluster.kubeconfig), **homes},
        timeout=360,
    )


def built(name: str, **how: Any) -> str:
    """Builds an image, and names it by its content. What was built before under that name goes."""
    repository = f"{recipe.NAME}/{name}"
    docker.build(f"{repository}:new", **how)
    identity = docker.docker("image", "inspect", "--format={{.Id}}", f"{repository}:new").strip()
    tag = f"{repository}:{identity.removeprefix('sha256:')[:12]}"
    docker.docker("tag", f"{repository}:new", tag)
    listed = docker.docker("image", "ls", "--format={{.Repository}}:{{.Tag}}", repository).split()
    docker.docker("image", "rm", *(other for other in listed if other != tag))
    return tag
