"""The programs of a cluster, compiled from Go modules: Kubernetes and etcd, CoreDNS, kind, Helm, kubeconform.

Everything that changes what is compiled is in this file, in `go/` and in recipe.py, and names the folder of the result.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from e2e.cluster import machine, recipe
from e2e.cluster.machine import ClusterError, say

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
NODE = ("kubelet", "kubeadm", "kube-proxy")
SMALL = ("coredns", "pause")
PARTS = {
    "control-plane": CONTROL_PLANE,
    "kind": ("kind", "kubectl"),
    "node": (*CONTROL_PLANE, *NODE, *SMALL),
    "helm": ("helm", "kubeconform"),
}

# What is compiled in one go.
SOURCES = {
    "etcd": ("etcd",),
    "Kubernetes": (*CONTROL_PLANE[1:], *NODE),
    "CoreDNS": SMALL,
    "kind": ("kind",),
    "kubeconform": ("kubeconform",),
    "Helm": ("helm",),
}

_STRIP = "-s -w"
_GO_FIX = "Install Go 1.25 or later (https://go.dev/dl); a Go from 1.21 on fetches a later one by itself."


def folder() -> Path:
    return recipe.cache() / recipe.programs_version()


def path(name: str) -> Path:
    """The built program. Raises ClusterError if it has not been built."""
    program = folder() / name
    if not program.exists():
        part = next(part for part, names in PARTS.items() if name in names)
        raise ClusterError(f"{name} has not been built", f"Build it: python -m e2e.cluster build {part}")
    return program


def lacking(part: str) -> list[str]:
    """The programs of this part that are not built yet."""
    return [name for name in PARTS[part] if not (folder() / name).exists()]


def build(part: str) -> None:
    """Builds what this part lacks. Each program appears in its place only when it is whole."""
    if not lacking(part):
        return
    check_go()
    with machine.workshop("programs") as out:
        folder().mkdir(exist_ok=True)
        wanted = lacking(part)
        for source, names in SOURCES.items():
            if todo := [name for name in names if name in wanted]:
                say(f"compiling {source}: {', '.join(todo)}")
                _compile(source, todo, out)
                for name in todo:
                    (out / name).replace(folder() / name)


def remove_older() -> None:
    """Removes the programs of every other recipe."""
    with machine.lock("programs"):
        for other in recipe.cache().iterdir():
            if other.is_dir() and re.fullmatch(r"[0-9a-f]{12}", other.name) and other != folder():
                say(f"removing {other}")
                shutil.rmtree(other)


def check_go() -> str:
    """Go's version. Raises ClusterError if it is too old, or not there."""
    found = machine.run(["go", "version"], cwd=recipe.GO / "small", fix=_GO_FIX).split()[2]
    numbers = re.match(r"go(\d+)\.(\d+)", found)
    if numbers and (int(numbers[1]), int(numbers[2])) < (1, 25):
        raise ClusterError(f"Go is too old: {found}", _GO_FIX)
    return found.removeprefix("go")


def module_folder(module: str) -> Path:
    """Returns the folder in which Go keeps the source of a published module, e.g. sigs.k8s.io/kind@v0.33.0."""
    listed = machine.run(["go", "mod", "download", "-json", module], cwd=recipe.GO / "small", timeout=300, fix=_GO_FIX)
    return Path(re.search(r'"Dir": "([^"]+)"', listed)[1])  # type: ignore[index]


def _compile(source: str, names: list[str], out: Path) -> None:
    match source:
        case "etcd":
            _build("kubernetes", _STRIP, out / "etcd", "go.etcd.io/etcd/server/v3")
        case "Kubernetes":
            _build("kubernetes", _kubernetes_stamp(), out, *(f"k8s.io/kubernetes/cmd/{name}" for name in names))
        case "CoreDNS":
            _build("small", _STRIP, out, *(f"./{name}" for name in names))
        case "kind":
            _install(out, _STRIP, f"sigs.k8s.io/kind@v{recipe.KIND}")
        case "kubeconform":
            stamp = f"{_STRIP} -X main.version=v{recipe.KUBECONFORM}"
            _install(out, stamp, f"github.com/yannh/kubeconform/cmd/kubeconform@v{recipe.KUBECONFORM}")
        case "Helm":
            stamp = f"{_STRIP} -X helm.sh/helm/v4/internal/version.version=v{recipe.HELM}"
            _install(out, stamp, f"helm.sh/helm/v4/cmd/helm@v{recipe.HELM}")


def _kubernetes_stamp() -> str:
    # Without a version, clients take the server for one of no version at all, and charts refuse it.
    major, minor, _ = recipe.KUBERNETES.split(".")
    version = {"gitVersion": f"v{recipe.KUBERNETES}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return " ".join([_STRIP, *(f"-X k8s.io/component-base/version.{key}={value}" for key, value in version.items())])


def _build(module: str, flags: str, out: Path, *packages: str) -> None:
    _go("build", "-trimpath", "-ldflags", flags, "-o", out, *packages, cwd=recipe.GO / module)


def _install(out: Path, flags: str, package: str) -> None:
    _go("install", "-trimpath", "-ldflags", flags, package, env={"GOBIN": str(out)})


def _go(*words: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    # Without C for all alike: otherwise what they share would be compiled twice.
    machine.run(["go", *words], cwd=cwd, env={"CGO_ENABLED": "0", **(env or {})}, timeout=3000, fix=_GO_FIX)
