"""The images of a cluster, made from Debian packages and our own programs: nothing is pulled.

Needs root, for debootstrap. The mirror and proxies are this machine's own, and no trace of them goes into an image.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from pathlib import Path

from e2e.cluster import docker, machine, programs, recipe
from e2e.cluster.machine import ClusterError, say

COMPONENTS = ("pause", "etcd", "coredns", "kube-apiserver", "kube-controller-manager", "kube-scheduler")

# What no container needs, or what tells of the machine that made it.
_LEFT_OUT = (
    "./var/cache/apt/*",
    "./var/lib/apt/lists/*",
    "./var/log/*",
    "./usr/share/doc/*",
    "./usr/share/man/*",
    "./usr/share/locale/*",
    "./etc/apt/sources.list*",
    "./etc/apt/apt.conf.d/*proxy*",
    "./etc/resolv.conf",
    "./etc/hostname",
    "./etc/machine-id",
)


def node_image_is_built() -> bool:
    return docker.has_image(recipe.node_image())


def base_image() -> str:
    """The base of Watchbill's own images: E2E_BASE_IMAGE, else ours if it was built, else the public one."""
    if given := os.environ.get("E2E_BASE_IMAGE"):
        return given
    return recipe.PYTHON_IMAGE if docker.has_image(recipe.PYTHON_IMAGE) else recipe.PUBLIC_PYTHON_IMAGE


def build_python() -> None:
    """The base of our own images: Debian with Python and nothing else."""
    docker.docker("tag", _debian(recipe.PYTHON_PACKAGES), recipe.PYTHON_IMAGE)


def build_node() -> None:
    """The image of kind's nodes, if it is not there. The programs must have been built."""
    image = recipe.node_image()
    if docker.has_image(image):
        return
    base = _debian(recipe.NODE_PACKAGES)
    with machine.workshop("node") as context:
        (context / "images").mkdir()
        names = _component_images(context, base)
        say(f"node image {image}")
        docker.docker("save", "--output", context / "images" / "all.tar", *names)
        shutil.copytree(recipe.NODE, context / "node")
        _programs(context / "programs", "kubelet", "kubeadm", "kubectl")
        _kind_files(context / "kind-files")
        arguments = {"BASE": base, "KUBERNETES_VERSION": f"v{recipe.KUBERNETES}"}
        docker.build(image, dockerfile=recipe.NODE / "Dockerfile", context=context, arguments=arguments)


def remove_older() -> None:
    """Removes the Debian trees, nodes and bases of every other recipe, except what a container still uses."""
    versions = [recipe.debian_version(packages) for packages in (recipe.NODE_PACKAGES, recipe.PYTHON_PACKAGES)]
    with machine.lock("debian"):
        for tree in recipe.cache().glob("debian-*.tar"):
            if tree.name not in {f"debian-{version}.tar" for version in versions}:
                say(f"removing {tree}")
                tree.unlink()
    wanted = {recipe.node_image(), *(f"{recipe.NAME}/debian:{version}" for version in versions)}
    for repository in ("node", "debian"):
        listed = ("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", f"{recipe.NAME}/{repository}")
        for image in set(docker.docker(*listed).split()) - wanted:
            if machine.succeeds([docker.client(), "image", "rm", image]):
                say(f"removed {image}")


def _component_images(context: Path, base: str) -> list[str]:
    # The names that kubeadm asks for. No other image of that name can be on this engine's nodes.
    version = f"v{recipe.KUBERNETES}"
    listed = machine.run([programs.path("kubeadm"), "config", "images", "list", "--kubernetes-version", version])
    names = {re.split(r"[/:]", line)[-2]: line for line in listed.split()}
    if f'"{names["pause"]}"' not in (recipe.NODE / "containerd.toml").read_text():
        raise ClusterError(f"node/containerd.toml names another pause image than kubeadm's {names['pause']}")
    say("images of the control plane")
    for component in (*COMPONENTS, "kube-proxy"):
        folder = context / component
        _programs(folder, component)
        dockerfile = recipe.NODE / "kube-proxy.Dockerfile"
        if component != "kube-proxy":
            dockerfile = folder / "Dockerfile"
            dockerfile.write_text(
                f"FROM scratch\nCOPY {component} /usr/local/bin/\nENV PATH=/usr/local/bin\n"
                f'ENTRYPOINT ["/usr/local/bin/{component}"]\n'
            )
        docker.build(names[component], dockerfile=dockerfile, context=folder, arguments={"BASE": base})
        shutil.rmtree(folder)
    return list(names.values())


def _programs(folder: Path, *names: str) -> None:
    folder.mkdir()
    for name in names:
        shutil.copy(programs.path(name), folder)


def _kind_files(folder: Path) -> None:
    # kind's own scripts and units; without its containerd configuration, which is for a later containerd.
    source = programs.module_folder(f"sigs.k8s.io/kind@v{recipe.KIND}") / "images" / "base" / "files"
    shutil.copytree(source, folder, copy_function=shutil.copyfile)
    machine.run(["chmod", "-R", "u+w", folder])
    shutil.rmtree(folder / "LICENSES")
    shutil.rmtree(folder / "etc" / "containerd")
    (folder / "usr/local/bin/clean-install").unlink()
    (folder / "etc/systemd/system/containerd-fuse-overlayfs.service").unlink()


def _debian(packages: str) -> str:
    version = recipe.debian_version(packages)
    image = f"{recipe.NAME}/debian:{version}"
    if docker.has_image(image):
        return image
    tree = recipe.cache() / f"debian-{version}.tar"
    if not tree.exists():
        with machine.workshop("debian") as folder:
            say(f"debootstrap {recipe.DEBIAN}: {packages}")
            _debootstrap(folder, packages).replace(tree)
    docker.docker("import", tree, image, timeout=300)
    return image


def _debootstrap(folder: Path, packages: str) -> Path:
    if not machine.is_root():
        raise ClusterError("Only root can make a Debian tree", "Run this as root, or take a public image.")
    machine.install(machine.IMAGE_PACKAGES)
    root, tree = folder / "root", folder / "tar"
    command: list[str | Path] = ["debootstrap", "--variant=minbase", f"--include={packages}", recipe.DEBIAN, root]
    machine.run([*command, *_mirror()], timeout=900)
    machine.run(["tar", "-C", root, *(f"--exclude={name}" for name in _LEFT_OUT), "-cf", tree, "."], timeout=300)
    return tree


def _mirror() -> list[str]:
    # What apt uses here, if this is Debian; else debootstrap's own.
    if platform.freedesktop_os_release().get("ID") != "debian":
        return []
    for name in ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"):
        if Path(name).exists():
            found = re.search(r"^(?:URIs:|deb(?:\s+\[.*?\])?)\s+(\S+)", Path(name).read_text(), re.MULTILINE)
            if found:
                return [found[1]]
    return []
