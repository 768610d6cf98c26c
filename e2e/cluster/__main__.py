"""`python -m e2e.cluster`: builds, starts and removes the clusters of the tests."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from e2e.cluster import (
    chart_tools,
    control_plane,
    docker,
    images,
    install,
    kind,
    machine,
    monitored,
    monitoring,
    programs,
    recipe,
)
from e2e.cluster.kubectl import KubectlError
from e2e.cluster.machine import ClusterError, say

BUILDS = ("control-plane", "kind", "helm", "charts", "monitoring", "python", "all")
DEFAULT_NAME = "watchbill"


def main() -> int:
    # Terminated is like interrupted: what was started is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments = _parser().parse_args()
    try:
        arguments.run(arguments)
    except (ClusterError, KubectlError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m e2e.cluster",
        description=__doc__,
        epilog=f"Everything built is in {recipe.cache()}, and is found again by any clone with the same recipe.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None], purpose: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=purpose, description=purpose)
        added.set_defaults(run=run)
        return added

    build = command("build", _build, "build what is missing of a part (7 minutes the first time, 3 more for Helm)")
    build.add_argument("parts", nargs="*", choices=BUILDS, default="all", metavar="|".join(BUILDS))
    command("control-plane", _control_plane, "run a bare control plane until Ctrl-C")
    up = command("up", _up, "make a cluster with Watchbill and a Valkey in it, or renew those; print how to use it")
    up.add_argument("name", nargs="?", default=DEFAULT_NAME)
    up.add_argument("--bare", action="store_true", help="the cluster only")
    up.add_argument("--monitoring", action="store_true", help="with Prometheus and Alertmanager")
    up.add_argument("--workers", type=int, default=0, help="nodes besides the control plane's (default 0)")
    down = command("down", _down, "remove a cluster; after the last one also network, firewall rule, our Docker engine")
    down.add_argument("name", nargs="?", default=DEFAULT_NAME)
    load = command("load", _load, "put a local image on every node of a cluster")
    load.add_argument("image")
    load.add_argument("name", nargs="?", default=DEFAULT_NAME)
    image = command("image", _image, "build an image, over the Debian base if that was built (build argument BASE)")
    image.add_argument("tag")
    image.add_argument("--file", type=Path, default=Path("Dockerfile"))
    image.add_argument("--target", default="")
    image.add_argument(
        "--base", default="", help="the base image (default: E2E_BASE_IMAGE, ours, a public slim Python)"
    )
    image.add_argument("--build-arg", action="append", default=[], metavar="KEY=VALUE")
    image.add_argument("--context", type=Path, default=Path("."))
    engine = command(
        "docker", _docker, "start an engine if none answers, to stay until stopped; stop one that was started here"
    )
    engine.add_argument("action", choices=("start", "stop"))
    path = command("path", _path, "print where a program is: helm, kubeconform, kubectl, kind, promtool …")
    path.add_argument("program")
    command("clean", _clean, "remove what older recipes have built: programs, Debian trees, images")
    command("doctor", _doctor, "say what this machine has and what it lacks")
    return parser


def _build(arguments: argparse.Namespace) -> None:
    parts = [arguments.parts] if isinstance(arguments.parts, str) else arguments.parts
    parts = {part for part in BUILDS if part in parts or "all" in parts}
    # Given images are for those who can pull, and need not build.
    nodes = "kind" in parts and not os.environ.get("E2E_NODE_IMAGE")
    python = bool(parts & {"kind", "python"}) and not os.environ.get("E2E_BASE_IMAGE")
    for part in sorted(parts & set(programs.PARTS)):
        programs.build(part)
    if "charts" in parts:
        chart_tools.build()
    if "monitoring" in parts:
        monitoring.build()
    if nodes:
        programs.build("node")
    if nodes or python:
        with docker.engine():
            if python:
                images.build_python()
            if nodes:
                images.build_node()
    say("all built")


def _control_plane(_: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="watchbill-e2e-") as folder, control_plane.running(Path(folder)) as plane:
        say(f"a control plane runs: Kubernetes {recipe.KUBERNETES} at {plane.url}. No pods run on it.\n")
        print(f"  export KUBECONFIG={plane.kubeconfig}")
        print(f"  alias kubectl={programs.path('kubectl')}")
        print(f"\nIts logs and audit log: {folder}. Ctrl-C stops and removes it.", flush=True)
        while not plane.ended():
            time.sleep(0.5)
        raise ClusterError(f"ended by itself: {', '.join(plane.ended())}")


def _up(arguments: argparse.Namespace) -> None:
    cluster = kind.existing(arguments.name)
    if cluster is None:
        cluster = kind.up(arguments.name, workers=arguments.workers)
    if not arguments.bare:
        made = install.prepared(cluster)
        say("installing Watchbill")
        install.install(cluster, replace(made, worker=made.worker_llm), namespace="default")
    if arguments.monitoring:
        monitored.put_in(cluster)
    say(f"the cluster {arguments.name!r} runs\n")
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    print(f"alias kubectl={programs.path('kubectl')}")
    print(f"alias helm={programs.path('helm')}")
    if not arguments.bare:
        print(f"\n{install.NEXT}", end="")
    if arguments.monitoring:
        print(f"\n{monitored.LOOK}", end="")
    down = "make e2e-down" if arguments.name == DEFAULT_NAME else f"python -m e2e.cluster down {arguments.name}"
    print(f"\nRemove it: {down}")


def _down(arguments: argparse.Namespace) -> None:
    kind.down(arguments.name)


def _load(arguments: argparse.Namespace) -> None:
    cluster = kind.current() if os.environ.get("E2E_USE_CLUSTER") else kind.existing(arguments.name)
    if cluster is None:
        raise ClusterError(f"There is no cluster {arguments.name!r}", "Make it: python -m e2e.cluster up")
    cluster.load(arguments.image)


def _image(arguments: argparse.Namespace) -> None:
    with docker.engine():
        base = arguments.base or images.base_image()
        say(f"building {arguments.tag} over {base}")
        docker.build(
            arguments.tag,
            dockerfile=arguments.file,
            context=arguments.context,
            arguments={"BASE": base, **dict(pair.split("=", 1) for pair in arguments.build_arg)},
            target=arguments.target,
        )
        size = int(docker.docker("image", "inspect", "--format", "{{.Size}}", arguments.tag))
        say(f"{arguments.tag}: {size / 1e6:.0f} MB")


def _docker(arguments: argparse.Namespace) -> None:
    if arguments.action == "start":
        docker.start(keep=True)
        say(
            docker.docker(
                "info", "--format", "Docker {{.ServerVersion}}, {{.Driver}}, runtime {{.DefaultRuntime}}"
            ).strip()
        )
    else:
        docker.stop()


def _path(arguments: argparse.Namespace) -> None:
    if arguments.program in monitoring.NAMES:
        print(monitoring.path(arguments.program))
    elif arguments.program in {name for names in programs.PARTS.values() for name in names}:
        print(programs.path(arguments.program))
    else:
        raise ClusterError(f"{arguments.program!r} is none of ours")


def _clean(_: argparse.Namespace) -> None:
    programs.remove_older()
    chart_tools.remove_older()
    if docker.answers():
        images.remove_older()


def _doctor(_: argparse.Namespace) -> None:
    def line(what: str, state: str) -> None:
        print(f"{what:<26}{state}")

    def attempt(what: str, find: Callable[[], str]) -> None:
        try:
            line(what, find())
        except ClusterError as error:
            line(what, f"{error.reason}. {error.fix}")

    attempt("Go", programs.check_go)
    for part in programs.PARTS:
        lacking = programs.lacking(part)
        line(f"programs: {part}", f"not built: {', '.join(lacking)}" if lacking else f"in {programs.folder()}")
    line("root", "yes" if machine.is_root() else "no: only with E2E_USE_CLUSTER=1 can pods run")
    packages = machine.missing({**machine.DOCKER_PACKAGES, **machine.IMAGE_PACKAGES})
    line(
        "packages",
        f"missing: {', '.join(packages)} (root on Debian or Ubuntu: they get installed)" if packages else "all",
    )
    attempt("docker client", docker.client)
    if not docker.answers():
        line("docker engine", "none answers; as root, one gets started when it is needed")
        return
    line("docker engine", "started here" if docker.is_ours() else "answers")
    line("capabilities", "all" if machine.may_raise_limits() else "no CAP_SYS_RESOURCE: nodes need the engine we start")
    line("node image", kind.node_image())
    line("base image", images.base_image())
    line("cluster", "runs" if kind.existing(DEFAULT_NAME) else "none")


if __name__ == "__main__":
    sys.exit(main())
