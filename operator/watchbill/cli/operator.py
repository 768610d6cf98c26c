"""`operator`: runs the operator for the Crews and Heartbeats of a cluster."""

from __future__ import annotations

import logging

from watchbill.errors import InvalidInput, Problem


def operator() -> int:
    """Run the operator until SIGTERM, in a cluster or for the cluster of the current kubeconfig.

    Its settings are WATCHBILL_* variables; WATCHBILL_REDIS_URL is required.
    """
    import asyncio

    from watchbill import metrics
    from watchbill.cli import environment, process
    from watchbill.controller.operator import Operator
    from watchbill.scheduler import Scheduler
    from watchbill.tracing import switch
    from watchbill.worker.health import HealthServer

    settings = environment.read()
    if settings.redis_url is None:
        fix = "Set it to the URL of the store that the workers use, too."
        raise InvalidInput(Problem("the operator has no store", fix, path="WATCHBILL_REDIS_URL"))
    url = settings.redis_url
    switch.on(settings, "watchbill-operator")  # `process.run` ends that
    metrics.leave_out_created()
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)  # that it leaves signals alone is meant so

    async def work(signals: process.Signals) -> int:
        running = Operator(settings, url, Scheduler)
        health = HealthServer(running.observe, lambda: running.is_ready, is_operator=True)
        if settings.health_port is not None:
            await health.start(settings.health_host, settings.health_port)
        try:
            going = asyncio.ensure_future(running.run())
            asked = asyncio.ensure_future(signals.next())
            await asyncio.wait({going, asked}, return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()
            running.stop()
            await going
        finally:
            await health.close()
        return 0

    return process.run(work)
