"""What a worker reports of its kubelet's probes."""

from __future__ import annotations

import aiohttp
from workshop import Make

from waiting import until
from watchbill.store import workers
from watchbill.worker.health import HealthServer
from watchbill.worker.probes import FAILURES, Known, Probes

KUBELET = "kube-probe/1.35"


async def nothing() -> None:
    pass


def test_a_kubelet_takes_one_good_answer_for_ready_and_some_bad_ones_in_a_row_for_not() -> None:
    times = iter(range(100, 200))
    probes = Probes(lambda: next(times))
    assert probes.known == Known(False, 0), "as the container begins"
    for answer, known in (
        (False, (False, 0)),
        (True, (True, 100)),
        *[(False, (True, 100))] * (FAILURES - 1),
        (True, (True, 100)),
        *[(False, (True, 100))] * (FAILURES - 1),
        (False, (False, 101)),
        (False, (False, 101)),
        (True, (True, 102)),
    ):
        probes.answered(answer)
        assert probes.known == known


async def test_the_store_hears_at_once_what_the_kubelet_knows_and_of_nobody_else(make_crew: Make) -> None:
    crew = await make_crew({"a": "Gate"}, lease_seconds=3600)  # no renewal is due

    async def is_said(ready: bool | None) -> bool:
        found = await workers.workers(crew.redis, crew.keys, crew.uid)
        assert all(found.now_ms - 60_000 < one.ready_since_ms <= found.now_ms for one in found.of_crew if one.ready)
        return [one.ready for one in found.of_crew if one.since_ms] == [ready]

    async with crew.in_process() as worker:
        await until(lambda: is_said(None), what="a worker whose probes nobody serves")

    async with crew.in_process() as worker, aiohttp.ClientSession() as http:
        server = HealthServer(nothing, lambda: not worker.drained, on_probe=worker.note_probes())
        await server.start("127.0.0.1", 0)

        async def ask(by: str) -> int:
            async with http.get(f"http://127.0.0.1:{server.port}/readyz", headers={"User-Agent": by}) as answer:
                return answer.status

        try:
            await until(lambda: is_said(False), what="its report")
            assert await ask("curl/8") == 200
            assert worker._state.probes is not None
            assert not worker._state.probes.known.ready
            assert await ask(KUBELET) == 200
            await until(lambda: is_said(True), what="that the kubelet has asked")
            await crew.client.drain(crew.name, worker._state.incarnation.name)
            await until(lambda: worker.drained, what="the drain")
            for _ in range(FAILURES):
                assert await is_said(True)
                assert await ask(KUBELET) == 503
            await until(lambda: is_said(False), what="that the kubelet knows of it")
        finally:
            await server.close()
