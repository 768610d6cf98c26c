"""The recipe of the clusters: versions, and the names of what is built from them.

May not build anything. A version here is part of the name of everything that depends on it, so that a changed recipe
never meets what an older one has built.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path

KUBERNETES = "1.35.4"  # the last line that works with Debian 12's containerd 1.6; go/kubernetes/go.mod says the same
KIND = "0.33.0"
HELM = "4.3.1"
KUBECONFORM = "0.8.0"
DEBIAN = "bookworm"

HERE = Path(__file__).parent
GO = HERE / "go"
NODE = HERE / "node"

# Everything of ours that Docker holds begins with this.
NAME = "watchbill-e2e"
PYTHON_IMAGE = f"{NAME}/python:3.11"
# For those who can pull images, and cannot or will not build them.
PUBLIC_PYTHON_IMAGE = "python:3.11-slim"

# Packages of the Debian images. containernetworking-plugins to procps: what a node calls; jq and curl: our scripts.
NODE_PACKAGES = (
    "systemd,containerd,runc,containernetworking-plugins,conntrack,iptables,nftables,iproute2,ethtool,kmod,mount,procps,"
    "jq,curl,ca-certificates"
)
PYTHON_PACKAGES = "python3,python3-venv,ca-certificates"


def cache() -> Path:
    """The folder that outlives a clone: programs, Debian trees, the records of what runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / NAME


def programs_version() -> str:
    """Names the folder of the built programs."""
    versions = (KUBERNETES, KIND, HELM, KUBECONFORM, platform.system(), platform.machine())
    return _digest(versions, (*GO.rglob("*.go"), *GO.rglob("go.*"), HERE / "programs.py"))


def node_image() -> str:
    """The node image that this recipe builds."""
    inputs = (path for path in NODE.rglob("*") if path.is_file())
    version = _digest((programs_version(), NODE_PACKAGES, DEBIAN), (*inputs, HERE / "images.py"))
    return f"{NAME}/node:v{KUBERNETES}-{version}"


def debian_version(packages: str) -> str:
    """Names a Debian tree by what is in it."""
    return f"{DEBIAN}-{platform.machine()}-{_digest((packages,), ())[:8]}"


def _digest(words: Iterable[str], files: Iterable[Path]) -> str:
    digest = hashlib.sha256(" ".join(words).encode())
    for path in sorted(set(files)):
        digest.update(f"\0{path.relative_to(HERE)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
