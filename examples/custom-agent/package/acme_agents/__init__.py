"""An agent and a tool as an installed package."""


def count(text: str) -> int:
    """The number of words of a text."""
    return len(text.split())


class Words:
    """Counts the words of its prompt by the tool."""

    async def run(self, context):
        return context.tools["acme-count"](context.prompt)
