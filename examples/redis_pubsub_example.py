"""Two agents that talk by messages: a researcher asks, an analyst answers.

    python examples/redis_pubsub_example.py

It needs a Redis or Valkey: the one that WATCHBILL_REDIS_URL names, else localhost:6379 (docs/messaging.md).
"""

from __future__ import annotations

import threading
from typing import Any

from watchbill.messaging import RedisPubSub

QUESTIONS = ("tides", "moons", "currents")


class Analyst:
    """Answers each question that is published."""

    def __init__(self) -> None:
        self.pubsub = RedisPubSub()
        self.pubsub.subscribe("questions", self.answer)

    def answer(self, question: dict[str, Any]) -> None:
        """Publishes an answer. A question without a topic raises KeyError, which is logged, and the next one comes."""
        topic = question["topic"]
        self.pubsub.publish("answers", {"topic": topic, "words": len(topic), "asked_by": question["from"]})


class Researcher:
    """Asks, and collects the answers."""

    def __init__(self) -> None:
        self.pubsub = RedisPubSub()
        self.pubsub.subscribe("answers", self.note)
        self.answers: dict[str, int] = {}
        self.done = threading.Event()

    def note(self, answer: dict[str, Any]) -> None:
        """Keeps an answer."""
        self.answers[answer["topic"]] = answer["words"]
        if len(self.answers) == len(QUESTIONS):
            self.done.set()

    def ask(self) -> None:
        """Publishes the questions, and waits for the answers."""
        for topic in QUESTIONS:
            listening = self.pubsub.publish("questions", {"topic": topic, "from": "researcher"})
            print(f"asked about {topic}: {listening} listening")
        self.done.wait(timeout=30)


def main() -> None:
    analyst, researcher = Analyst(), Researcher()
    with analyst.pubsub, researcher.pubsub:
        analyst.pubsub.run_in_thread()  # returns when the server has confirmed the subscription
        researcher.pubsub.run_in_thread()
        researcher.ask()
    for topic, words in researcher.answers.items():
        print(f"{topic}: {words} letters")


if __name__ == "__main__":
    main()
