"""The values of labels: crews by namespace and name, and a bound for names that come with the work."""

from __future__ import annotations

from typing import Final

OF_CREW: Final = ("namespace", "crew")
"""The labels that name a crew."""
NAMES_MOST: Final = 100
OTHER: Final = "(other)"


def of_crew(crew: str) -> tuple[str, str]:
    """Returns the values of OF_CREW for a crew that is named `namespace/name`."""
    namespace, _, name = crew.partition("/")
    return namespace, name


class Names:
    """Bounds the values of a label: a process shows the first NAMES_MOST names of each crew, and OTHER for all more.

    A crew's own agents are far fewer; those of a service may have any name.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], set[str]] = {}

    def shown(self, crew: tuple[str, str], name: str) -> str:
        """Returns the value of the label for this name. `crew`: as of_crew returns it."""
        known = self._known.setdefault(crew, set())
        if name not in known:
            if len(known) >= NAMES_MOST:
                return OTHER
            known.add(name)
        return name
