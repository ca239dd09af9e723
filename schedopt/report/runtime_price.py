"""What the rules of a runtime cost, as lines and as a document."""

from __future__ import annotations

from fractions import Fraction

from schedopt.report.documents import Document
from schedopt.report.quantities import time_text
from schedopt.report.summary import Line
from schedopt.solve.runtime_price import RuntimePrice


def price_lines(price: RuntimePrice) -> list[Line]:
    """One line: the price, and value and bound without the rules."""
    units = price.free.graph.units
    free = time_text(price.free_value, units)
    bound = time_text(price.free.lower_bound, units)
    label = f"price of {price.runtime}'s rules"
    shown = _percent(price.price)
    if price.price is not None and price.most is not None and price.most > price.price:
        shown += f", at most {_percent(price.most)}"
    return [(label, f"{shown} (free: {free}, bound {bound})")]


def price_document(price: RuntimePrice) -> Document:
    """The runtime, the free value and bound, and the price in shares of one."""
    units = price.free.graph.units
    value = price.free_value
    return {
        "name": price.runtime,
        "price": None if price.price is None else float(price.price),
        "price_at_most": None if price.most is None else float(price.most),
        "free_value": None if value is None else units.time_of(value),
        "free_lower_bound": units.time_of(price.free.lower_bound),
        "free_status": price.free.status.value,
        "free_bound_holds_under_the_rules": price.is_restriction,
    }


def _percent(share: Fraction | None) -> str:
    return "-" if share is None else f"{float(100 * share):+.2f} %"
