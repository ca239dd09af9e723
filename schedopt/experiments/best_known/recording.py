"""Offers go into the store: what is better replaces, all else changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from schedopt.experiments.best_known.entries import BestKnown, Entry
from schedopt.experiments.best_known.offers import Offer
from schedopt.experiments.best_known.rules import (
    bound_is_better,
    require_bound_not_above_value,
    require_same_units,
    require_value_not_below_bound,
    value_is_better,
)


class Outcome(StrEnum):
    """What became of an offered value or bound.

    ``new``: there was none before. ``better``: it replaced one. ``kept``: the recorded
    one is as good or better, and stays. ``none``: none was offered.
    """

    NEW = "new"
    BETTER = "better"
    KEPT = "kept"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The store after an offer, its entry, what was there before, and what changed."""

    store: BestKnown
    offer: Offer
    before: Entry | None
    entry: Entry
    value: Outcome
    bound: Outcome


def record(store: BestKnown, offer: Offer) -> Recorded:
    """Put into the store what is better in an offer; value and bound independently.

    Raises
    ------
    ContradictionError
        If the offer and the store, or the offer's own value and bound, exclude each
        other.
    FormatError
        If the store has the instance with other units.
    """
    known = store.get(offer.problem)
    require_same_units(offer, known)
    require_value_not_below_bound(offer, known)
    require_bound_not_above_value(offer, known)
    if known is None:
        entry = Entry(problem=offer.problem, value=offer.value, bound=offer.bound)
        value = Outcome.NEW
        bound = Outcome.NONE if offer.bound is None else Outcome.NEW
    else:
        takes_value = value_is_better(offer, known)
        takes_bound = bound_is_better(offer, known)
        entry = Entry(
            problem=known.problem,
            value=offer.value if takes_value else known.value,
            bound=offer.bound if takes_bound else known.bound,
        )
        value = Outcome.BETTER if takes_value else Outcome.KEPT
        bound = _bound_outcome(offer, known, taken=takes_bound)
    return Recorded(
        store=store.with_entry(entry),
        offer=offer,
        before=known,
        entry=entry,
        value=value,
        bound=bound,
    )


def _bound_outcome(offer: Offer, known: Entry, *, taken: bool) -> Outcome:
    if offer.bound is None:
        return Outcome.NONE
    if known.bound is None:
        return Outcome.NEW
    return Outcome.BETTER if taken else Outcome.KEPT
