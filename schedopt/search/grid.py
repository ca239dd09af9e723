"""Over the parameters of the greedy on lanes: a grid, then climbing from its best.

The grid varies the in-flight caps around the number of devices that remain (one stage
per device) or lets memory decide, the penalty of W from nothing to W's own length, and
the penalty of forwards. Climbing changes caps and penalties of random ranges of rows
and keeps what is no worse.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product

import numpy as np

from schedopt.lattice import Ints, Problem
from schedopt.search.arrays import LaneArrays, lane_arrays
from schedopt.search.greedy import NO_CAP, Rule, greedy


class Grid:
    """Tries rules of the greedy on lanes; every trial is a schedule or nothing.

    ``applies`` says whether the problem is one of lanes.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        self._problem = problem
        self._rng = random.Random(seed)
        self._arrays = lane_arrays(problem.graph)
        self._best: tuple[int, Rule] | None = None
        if self._arrays is not None:
            number = {op: index for index, op in enumerate(problem.ops)}
            self._number = np.array([number[op] for op in self._arrays.ops], np.int64)

    @property
    def applies(self) -> bool:
        """Whether the problem has lanes."""
        return self._arrays is not None

    def points(self, *, compile_loops: bool) -> Iterator[Ints | None]:
        """The schedule of each point of the grid, in beats."""
        if self._arrays is None:
            return
        for rule in _grid(self._arrays):
            yield self._try(self._arrays, rule, compile_loops=compile_loops)

    def climb(self, *, compile_loops: bool) -> Ints | None:
        """The schedule of a rule near the best one, in beats."""
        if self._arrays is None or self._best is None:
            return None
        rule = _changed(self._arrays, self._best[1], self._rng)
        return self._try(self._arrays, rule, compile_loops=compile_loops)

    def _try(
        self, arrays: LaneArrays, rule: Rule, *, compile_loops: bool
    ) -> Ints | None:
        found = greedy(arrays, rule, compile_loops=compile_loops)
        if found is None:
            return None
        makespan = int(found.max())
        if self._best is None or makespan <= self._best[0]:
            self._best = makespan, rule
        ends = np.empty_like(found)
        ends[self._number] = found // self._problem.beat
        return ends


def _grid(arrays: LaneArrays) -> Iterator[Rule]:
    remaining = _rows_to_come(arrays)
    whole = np.full(len(arrays.device), NO_CAP, np.int64)
    caps = [whole] + [np.maximum(1, remaining + s) for s in (0, 1, 2, -1, 3, -2)]
    weights = (0.25, 0.0, 1.0, 0.5, 0.75)
    forwards = (0.0, 0.5, 1.0)
    for cap, weight, ahead in product(caps, weights, forwards):
        yield Rule(
            cap,
            (arrays.forward * ahead).astype(np.int64),
            (arrays.weight * weight).astype(np.int64),
            (arrays.weight * min(weight, 0.25)).astype(np.int64),
        )


def _rows_to_come(arrays: LaneArrays) -> Ints:
    """For each row, how many rows of its lane follow, itself included."""
    rows = len(arrays.device)
    count = np.ones(rows, np.int64)
    for row in range(rows - 2, -1, -1):
        if arrays.lane[row] == arrays.lane[row + 1]:
            count[row] = count[row + 1] + 1
    return count


def _changed(arrays: LaneArrays, rule: Rule, rng: random.Random) -> Rule:
    """One random change: a cap or a penalty on a range of rows."""
    rows = len(arrays.device)
    first = rng.randrange(rows)
    last = rng.randrange(first, rows) + 1
    cap = rule.cap.copy()
    penalties = [
        rule.forward_penalty.copy(),
        rule.weight_penalty.copy(),
        rule.blocked_weight_penalty.copy(),
    ]
    what = rng.randrange(6)
    if what < 3:
        known = np.minimum(cap[first:last], arrays.microbatches[first:last])
        cap[first:last] = np.maximum(1, known + rng.choice((-2, -1, 1, 2)))
    else:
        scale = arrays.forward if what == 3 else arrays.weight
        factor = rng.choice((0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5))
        penalties[what - 3][first:last] = (scale[first:last] * factor).astype(np.int64)
    return Rule(cap, *penalties)
