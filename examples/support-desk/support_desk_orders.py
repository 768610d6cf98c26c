"""The clerk's tool: an order of the shop, from the file beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ORDERS = Path(__file__).with_name("orders.json")


def order(number: str) -> dict[str, Any]:
    """Look up an order of the shop.

    Args:
        number: The number of the order, as in A-1002.
    """
    orders = json.loads(ORDERS.read_text(encoding="utf-8"))
    if number not in orders:
        raise ValueError(f"there is no order {number!r}: its number looks like A-1002")
    found: dict[str, Any] = orders[number]
    return found
