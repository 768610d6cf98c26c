"""A workflow of agents over Redis Streams: analysts share the documents of one stream, a reporter reads their findings.

    python examples/redis_stream_example.py    # the Redis of WATCHBILL_REDIS_URL, else that on localhost:6379

One analyst fails on its first document, and one document can't be analysed by anybody. The first is done by another
analyst, the second becomes a dead letter, and nothing else is lost or done twice.
"""

from __future__ import annotations

import threading
import uuid
from typing import Any

from watchbill.messaging import RedisClient, RedisStream

DOCUMENTS = {
    "tides": "The sea rises and falls twice a day.",
    "winds": "Winds blow from high to low pressure, and turn on the way.",
    "empty": "",
    "stars": "Before satellites, a clear night was a map.",
}
RETRIES: dict[str, Any] = {"retry_after": 0.5, "max_deliveries": 3}
"""In real work, `retry_after` is longer than an analysis takes."""


class Analyst:
    """An agent in a thread of its own: takes documents until it is told to stop."""

    def __init__(self, name: str, client: RedisClient, run: str, *, is_clumsy: bool = False) -> None:
        self.name = name
        self._documents = RedisStream(f"{run}:documents", client, **RETRIES)
        self._findings = RedisStream(f"{run}:findings", client)
        self._is_clumsy = is_clumsy
        self._thread = threading.Thread(target=self._work, name=name)

    def start(self) -> None:
        self._documents.create_consumer_group("analysts", self.name)
        self._thread.start()

    def stop(self) -> None:
        self._documents.stop()
        self._thread.join()

    def _work(self) -> None:
        self._documents.process_messages(self._analyse, count=1)

    def _analyse(self, message: dict[str, Any]) -> None:
        if self._is_clumsy:
            self._is_clumsy = False
            raise RuntimeError("spilt coffee over it")
        words = message["data"]["text"].split()
        if not words:
            raise ValueError("it has no words")
        longest = max(words, key=len)
        self._findings.add({"title": message["data"]["title"], "words": len(words), "longest": longest.strip(".,")})


def main() -> None:
    run = f"workflow-{uuid.uuid4().hex[:8]}"
    with RedisClient() as client:
        documents = RedisStream(f"{run}:documents", client, **RETRIES)
        findings = RedisStream(f"{run}:findings", client)
        for title, text in DOCUMENTS.items():
            documents.add({"title": title, "text": text})

        # The groups are made now, and begin with the first document all the same.
        analysts = [Analyst("ada", client, run, is_clumsy=True), Analyst("bo", client, run)]
        for analyst in analysts:
            analyst.start()

        findings.create_consumer_group("reporters", "reporter")
        report: dict[str, dict[str, Any]] = {}
        while len(report) < 3:
            for message in findings.read_group(wait=5):
                report[message["data"]["title"]] = message["data"]
                findings.acknowledge(message["id"])
        while not (letters := documents.dead_letters()):
            threading.Event().wait(0.05)
        for analyst in analysts:
            analyst.stop()

        for title, finding in sorted(report.items()):
            print(f"{title}: {finding['words']} words, the longest is {finding['longest']!r}")
        for letter in letters:
            print(f"{letter['data']['title']}: given up after {letter['deliveries']} attempts: {letter['error']}")
        documents.cleanup(force=True)
        findings.cleanup(force=True)


if __name__ == "__main__":
    main()
