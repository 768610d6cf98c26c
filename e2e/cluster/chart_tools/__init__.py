"""Programs that examine the charts, compiled from Go modules: Helm 3, helm-unittest, kube-score.

They are apart from programs.py, so that another version of theirs builds no Kubernetes anew.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
from pathlib import Path

from e2e.cluster import machine, programs, recipe
from e2e.cluster.machine import ClusterError, say

HERE = Path(__file__).parent
NAMES = ("helm3", "helm-unittest", "kube-score")
KUBE_SCORE = "1.20.0"  # not in go.mod: it needs older modules of Kubernetes than Helm

_FIX = "Build it: python -m e2e.cluster build charts"


def folder() -> Path:
    """The folder of the built programs, which is named by all that they depend on."""
    digest = hashlib.sha256(f"{platform.system()} {platform.machine()}".encode())
    for name in ("go.mod", "go.sum", "__init__.py"):
        digest.update((HERE / name).read_bytes())
    return recipe.cache() / f"charts-{digest.hexdigest()[:12]}"


def path(name: str) -> Path:
    """The built program. Raises ClusterError if it has not been built."""
    program = folder() / name
    if not program.exists():
        raise ClusterError(f"{name} has not been built", _FIX)
    return program


def lacking() -> list[str]:
    """The programs that are not built yet."""
    return [name for name in NAMES if not (folder() / name).exists()]


def build() -> None:
    """Builds what is lacking. Each program appears in its place only when it is whole."""
    if not lacking():
        return
    programs.check_go()
    with machine.workshop("charts") as out:
        folder().mkdir(exist_ok=True)
        for name in lacking():
            say(f"compiling {name}")
            _compile(name, out)
            (out / name).replace(folder() / name)


def remove_older() -> None:
    """Removes the programs of every other version."""
    with machine.lock("charts"):
        for other in recipe.cache().glob("charts-*"):
            if other != folder():
                say(f"removing {other}")
                shutil.rmtree(other)


def _compile(name: str, out: Path) -> None:
    strip = "-s -w"
    if name == "kube-score":
        package = f"github.com/zegl/kube-score/cmd/kube-score@v{KUBE_SCORE}"
        _go("install", "-trimpath", "-ldflags", strip, package, env={"GOBIN": str(out)})
        return
    package = {
        "helm3": "helm.sh/helm/v3/cmd/helm",
        "helm-unittest": "github.com/helm-unittest/helm-unittest/cmd/helm-unittest",
    }[name]
    # Without them Helm says that it is of no version, and renders for a Kubernetes that our charts refuse.
    helm, minor = _version("helm.sh/helm/v3"), _version("k8s.io/client-go").split(".")[1]
    stamp = f"{strip} -X helm.sh/helm/v3/internal/version.version={helm}"
    for place in ("pkg/chartutil", "pkg/lint/rules"):
        stamp += f" -X helm.sh/helm/v3/{place}.k8sVersionMajor=1 -X helm.sh/helm/v3/{place}.k8sVersionMinor={minor}"
    _go("build", "-trimpath", "-ldflags", stamp, "-o", str(out / name), package)


def _version(module: str) -> str:
    """The module's version, as go.mod has it: v0.37.0."""
    found = re.search(rf"^\s*{re.escape(module)} (v\S+)", (HERE / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise ClusterError(f"{HERE / 'go.mod'} has no version of {module}")
    return found[1]


def _go(*words: str, env: dict[str, str] | None = None) -> None:
    machine.run(["go", *words], cwd=HERE, env={"CGO_ENABLED": "0", **(env or {})}, timeout=3000, fix=_FIX)
