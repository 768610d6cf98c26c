"""`doctor`: examines the installation, and names the fix of each fault."""

from __future__ import annotations

import dataclasses
import logging
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from watchbill.cli import output
from watchbill.cli.options import Output
from watchbill.cli.stores import StoreOptions, opened, with_store
from watchbill.errors import MissingExtra, NoStore, StoreUnavailable
from watchbill.terminal import one_line

if TYPE_CHECKING:
    from watchbill.doctor.cluster import Cluster
    from watchbill.doctor.findings import Finding
    from watchbill.settings import Settings

_NO_STORE: Final = "export WATCHBILL_REDIS_URL=redis://HOST:6379   # or name it by --redis-url"


@with_store()
def doctor(
    store: StoreOptions,
    cluster: Annotated[
        bool | None,
        typer.Option(
            "--cluster/--no-cluster",
            help="Examine the cluster of the pod or of the kubeconfig; with --cluster, one without Watchbill is an "
            "error. Default: examine it if there is one.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Examine store, cluster and crews, and print each finding with the command that mends it.

    Exits with 0 if there is no error, 1 if there is one; a warning is none. Nothing is changed.
    """
    from watchbill.cli import environment, process

    settings = environment.read()
    logging.getLogger("kubernetes").setLevel(logging.ERROR)  # a kubeconfig that isn't there is a finding

    async def work() -> int:
        from watchbill.doctor.findings import Severity

        seen = None if cluster is False else await _cluster(settings, asked=cluster is True)
        found = [*(seen.findings if seen else ()), *await _store(store, settings, seen)]
        _write(found, store.form)
        return int(any(finding.severity is Severity.ERROR for finding in found))

    return process.run_guarded(work())


async def _cluster(settings: Settings, *, asked: bool) -> Cluster | None:
    try:
        from watchbill.controller.quotas import hard_of
        from watchbill.doctor import cluster
    except MissingExtra:
        if asked:
            raise
        return None
    namespaces = [name for part in settings.watch_namespaces.split(",") if (name := part.strip())]
    # Elsewhere than in the operator's pod nobody has set it, and the default isn't the operator's.
    image = settings.worker_image if "worker_image" in settings.model_fields_set else ""
    return await cluster.examine(
        namespaces,
        asked=asked,
        worker_image=image,
        lease=settings.lease,
        user_per_crew=settings.redis_acl_per_crew,
        hard=partial(hard_of, settings.quotas),
    )


async def _store(options: StoreOptions, settings: Settings, seen: Cluster | None) -> list[Finding]:
    from watchbill import connection
    from watchbill.client import Client
    from watchbill.doctor import crews, store
    from watchbill.doctor.findings import Finding, Severity

    try:
        where = options.place(settings)
        async with opened(where) as target:
            found = await store.examine(
                target, f"the store of {where.tried.partition(' ')[0]}", makes_users=settings.redis_acl_per_crew
            )
            async with (
                connection.connected(target) as redis,
                Client(target, namespace=options.namespace or settings.namespace) as client,
            ):
                listed = seen.crews if seen and seen.crews is not None else await client.crews()
                return found + await crews.examine(redis, listed, in_cluster=bool(seen and seen.crews is not None))
    except (NoStore, StoreUnavailable) as error:
        return [Finding("store", Severity.ERROR, str(error).rstrip("."), _NO_STORE)]


def _write(found: list[Finding], form: Output) -> None:
    if form is not Output.TEXT:
        output.write([dataclasses.asdict(finding) for finding in found], form)
        return
    for finding in found:
        output.stdout().write(f"{finding.severity:<9}{finding.check:<13}{one_line(finding.message)}\n")
        if finding.fix:
            output.stdout().write(f"{'':<22}{one_line(finding.fix)}\n")
