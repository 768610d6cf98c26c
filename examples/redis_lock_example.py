"""Three agents write to one report, one at a time; the report refuses whoever has lost the lock without knowing it.

    python examples/redis_lock_example.py

It needs a Redis or Valkey: the one that WATCHBILL_REDIS_URL names, else localhost:6379 (docs/messaging.md).
"""

from __future__ import annotations

import threading

from watchbill.messaging import RedisClient, RedisLock


class Report:
    """A resource that is safe from holders of old locks: it refuses a fence smaller than the greatest it has seen."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._fence = 0

    def write(self, line: str, fence: int | None) -> bool:
        """True if the line was written."""
        if fence is None or fence < self._fence:
            return False
        self._fence = fence
        self.lines.append(line)
        return True


def work(name: str, report: Report, client: RedisClient) -> None:
    """Writes two lines that nobody else's come between."""
    lock = RedisLock("example-report", client=client)  # each holder has its own object
    with lock.acquire_context(retry=1000, retry_delay=0.01) as acquired:
        if not acquired:
            print(f"{name} gave up")
            return
        report.write(f"{name} begins", lock.fence)
        report.write(f"{name} ends", lock.fence)


def main() -> None:
    report = Report()
    with RedisClient() as client:
        agents = [threading.Thread(target=work, args=(name, report, client)) for name in ("Ann", "Ben", "Cy")]
        for agent in agents:
            agent.start()
        for agent in agents:
            agent.join()

        late = RedisLock("example-report", client=client)
        late.acquire()
        old_fence = late.fence
        late.release()  # as if it had expired while its holder stood still
        newer = RedisLock("example-report", client=client)
        newer.acquire()
        report.write("somebody newer", newer.fence)
        newer.release()
        print("written with an old fence:", report.write("too late", old_fence))
    print("\n".join(report.lines))


if __name__ == "__main__":
    main()
