"""A tool: a function that agents call by its name. A model reads its docstring and its annotations."""

PRICES = {"lamp": 12.5, "chair": 80.0}


def price(item: str) -> float:
    """The price of one item, in euros.

    Args:
        item: Its name in the catalogue, in the singular.
    """
    if item not in PRICES:
        raise ValueError(f"there is no {item!r}; there are {', '.join(PRICES)}")
    return PRICES[item]
