"""The best-known store: for each instance and objective its best value and bound.

``offer_from`` makes an offer of a schedule file, ``record`` puts into the store what is
better in it and refuses what contradicts the store, which is a bug somewhere. Nothing
that solves reads the store.
"""

from schedopt.experiments.best_known.entries import (
    BestKnown,
    Entry,
    Finder,
    KnownBound,
    KnownValue,
    Problem,
)
from schedopt.experiments.best_known.file import (
    load_best_known,
    load_if_present,
    write_best_known,
)
from schedopt.experiments.best_known.offers import (
    Offer,
    RefusedScheduleError,
    offer_from,
)
from schedopt.experiments.best_known.recording import Outcome, Recorded, record
from schedopt.experiments.best_known.rules import ContradictionError

__all__ = [
    "BestKnown",
    "ContradictionError",
    "Entry",
    "Finder",
    "KnownBound",
    "KnownValue",
    "Offer",
    "Outcome",
    "Problem",
    "Recorded",
    "RefusedScheduleError",
    "load_best_known",
    "load_if_present",
    "offer_from",
    "record",
    "write_best_known",
]
