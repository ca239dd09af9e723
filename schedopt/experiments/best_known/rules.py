"""When an offer contradicts what is known, and when it is better.

A value below a bound, or a bound above a value, means that one of them is wrong: a bug
of the solver or of the verifier, which must not be lost in a file of results.
"""

from __future__ import annotations

from schedopt.errors import FormatError, SchedOptError
from schedopt.experiments.best_known.entries import Entry
from schedopt.experiments.best_known.offers import Offer


class ContradictionError(SchedOptError):
    """A value and a bound exclude each other; the message names who found them."""


def require_same_units(offer: Offer, known: Entry | None) -> None:
    """Instances with the same hash have the same units and resolution."""
    if known is not None and known.problem.units != offer.problem.units:
        msg = (
            f"{offer.where}: {offer.problem} has other units or another resolution in"
            " the store, which was changed by hand; remove that entry"
        )
        raise FormatError(msg)


def require_value_not_below_bound(offer: Offer, known: Entry | None) -> None:
    """No schedule is better than a recorded lower bound."""
    if known is None or known.bound is None or offer.value.ticks >= known.bound.ticks:
        return
    text = offer.problem.time_text
    raise _contradiction(
        offer,
        f"its value {text(offer.value.ticks)}, found by {offer.value.found_by}, is"
        f" below the recorded lower bound {text(known.bound.ticks)}, claimed by"
        f" {known.bound.claimed_by}",
    )


def require_bound_not_above_value(offer: Offer, known: Entry | None) -> None:
    """No lower bound is above the recorded value, or above that of its own schedule."""
    value = offer.value
    whose = "the value of its own replayed schedule"
    if known is not None and known.value.ticks <= value.ticks:
        value, whose = known.value, "the recorded value"
    if offer.bound is None or offer.bound.ticks <= value.ticks:
        return
    text = offer.problem.time_text
    raise _contradiction(
        offer,
        f"its lower bound {text(offer.bound.ticks)}, claimed by"
        f" {offer.bound.claimed_by}, is above {whose} {text(value.ticks)}, found by"
        f" {value.found_by}",
    )


def value_is_better(offer: Offer, known: Entry) -> bool:
    """A smaller value replaces the recorded one."""
    return offer.value.ticks < known.value.ticks


def bound_is_better(offer: Offer, known: Entry) -> bool:
    """A larger lower bound replaces the recorded one, and any replaces none."""
    if offer.bound is None:
        return False
    return known.bound is None or offer.bound.ticks > known.bound.ticks


def _contradiction(offer: Offer, what: str) -> ContradictionError:
    return ContradictionError(
        f"{offer.where}: NOT RECORDED, A BUG: {offer.problem}: {what}; one of them is"
        " wrong: please report it with this file"
    )
