"""Three agents: one on the event loop, one that calls tools, and one that is a function."""

import re

from pydantic import BaseModel, Field

NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3}


class Items:
    """Finds how many of which item a text asks for."""

    class Config(BaseModel):
        """A wrong config is told by its field before anything runs."""

        catalogue: list[str] = Field(min_length=1)

    def __init__(self, config):
        self.catalogue = config.catalogue

    async def run(self, context):
        found = {}
        wanted = "|".join(map(re.escape, self.catalogue))
        for count, item in re.findall(rf"\b(\w+) ({wanted})s?\b", context.prompt.lower()):
            if count in NUMBERS or count.isdecimal():
                found[item] = found.get(item, 0) + int(NUMBERS.get(count, count))
        await context.emit(f"{len(found)} items are ordered")
        return found


class Total:
    """Prices what the step before has found. It runs in a thread, because it isn't async."""

    def run(self, context):
        price, calculator = context.tools["price"], context.tools["calculator"]
        terms = [f"{count} * {price(item)}" for item, count in context.outputs["items"].items()]
        return calculator(" + ".join(terms) or "0")


def receipt(context):
    """Writes one line. Its outputs are those of all steps before it."""
    lines = [f"{count} x {item}" for item, count in context.outputs["items"].items()]
    return f"{', '.join(lines) or 'nothing'}: {context.outputs['total']:.2f} euros"
