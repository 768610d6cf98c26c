"""Prometheus, promtool and Alertmanager as Debian has them, unpacked beside the other programs and not installed.

An installation would start services. May not start anything; where there are no such packages, what PATH has counts.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from e2e.cluster import machine, recipe
from e2e.cluster.machine import ClusterError, say

PACKAGES: Final = ("prometheus", "prometheus-alertmanager")
NAMES: Final = {
    "prometheus": ("prometheus",),
    "promtool": ("promtool",),
    "alertmanager": ("prometheus-alertmanager", "alertmanager"),
}
"""Program → the names that it may have, Debian's first."""

_FIX: Final = (
    "Build it: python -m e2e.cluster build monitoring, on Debian or Ubuntu; or install Prometheus and Alertmanager."
)
# Debian's Alertmanager reads its templates at a fixed path.
_WITH_SHARE: Final = 'mount --bind "$0" /usr/share && exec "$@"'


def folder() -> Path:
    """The folder of the unpacked packages."""
    return recipe.cache() / f"monitoring-{recipe.debian_version(' '.join(PACKAGES))}"


def path(name: str) -> Path:
    """The program. Raises ClusterError if it is neither unpacked nor in PATH."""
    for own in NAMES[name]:
        if (unpacked := folder() / "usr" / "bin" / own).exists():
            return unpacked
        if found := machine.which(own):
            return Path(found)
    raise ClusterError(f"{name} is not here", _FIX)


def lacking() -> list[str]:
    """The programs that are not here."""
    return [name for name in NAMES if not _is_here(name)]


def build() -> None:
    """Unpacks the packages where they are lacking and can be had; says so where they can't."""
    if not lacking():
        return
    if not (machine.which("apt-get") and machine.which("dpkg-deb")):
        say(f"no {', '.join(lacking())} and no apt-get here: what needs them is skipped")
        return
    unpack()


def unpack() -> Path:
    """Returns the folder of the unpacked packages, whatever else is installed. Raises ClusterError where they can't be
    had."""
    if folder().exists():
        return folder()
    with machine.workshop("monitoring") as out:
        download = ["apt-get", "download", *PACKAGES]
        if not machine.succeeds(download, cwd=out, timeout=300):  # its lists may be missing or old
            machine.run(["apt-get", "update", "-qq"], timeout=300, fix=_FIX)
            machine.run(download, cwd=out, timeout=300, fix=_FIX)
        for package in sorted(out.glob("*.deb")):
            machine.run(["dpkg-deb", "--extract", package, out / "tree"], fix=_FIX)
        shutil.rmtree(folder(), ignore_errors=True)
        (out / "tree").rename(folder())
    return folder()


def alertmanager(*flags: str) -> Sequence[str]:
    """Returns the command that runs Alertmanager, with Debian's templates where it is Debian's."""
    program = path("alertmanager")
    share = folder() / "usr" / "share"
    if not program.is_relative_to(folder()):
        return [str(program), *flags]
    root = [] if machine.is_root() else ["--map-root-user"]
    return ["unshare", "--mount", *root, "sh", "-c", _WITH_SHARE, str(share), str(program), *flags]


def _is_here(name: str) -> bool:
    try:
        path(name)
    except ClusterError:
        return False
    return True
