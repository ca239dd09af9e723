"""Windows of all ops in schedules that end by some time, or that there are none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from schedopt.compiled import compiled
from schedopt.lattice import propagation, shaving
from schedopt.lattice.memo import NEVER, add, mark, memo_of, trial_of
from schedopt.lattice.problem import Arrays, Ints, Problem, classes_on
from schedopt.lattice.states import (
    Lattices,
    fillers_left_out,
    lattices_of,
    thinned,
)
from schedopt.ops import Op

_HELPERS = (
    add,
    propagation.find_windows,
    propagation.follow_edges,
    propagation.is_touched,
    propagation.level_of,
    mark,
    propagation.narrow,
    propagation.settle,
    propagation.sweep,
    propagation.sweep_backward,
    propagation.sweep_forward,
    shaving.begin_trial,
    shaving.is_possible,
    shaving.shave,
)

_VISITS_AT_ONCE = 20_000_000
"""Steps after which a caller may stop: a few tenths of a second if compiled."""

_LARGEST_PLAIN = 20_000
"""Steps of lattices from which on loops over them are compiled in any case."""

# Seconds of a usual machine, about, if compiled and if not.
_S_PER_VISIT = {True: 8e-9, False: 1e-6}
_S_PER_STEP = {True: 6e-7, False: 2e-5}

_WORTH_THINNING = 0.8
"""Share of steps left from which on lattices are not thinned."""


class Windows:
    """What holds in every schedule that ends by ``end``, as far as it is known.

    Schedules are those in which equal microbatches pass in order; if there is none of
    them, there is none at all. Times are beats.

    Attributes
    ----------
    is_refuted : bool
        Whether there is no such schedule.
    """

    def __init__(
        self,
        problem: Problem,
        end: int,
        lattices: Lattices,
        head: Ints,
        last: Ints,
        *,
        spent: float = 0.0,
    ) -> None:
        self.end = end
        self.is_refuted = False
        self._problem = problem
        self._lattices = lattices
        self._memo = memo_of(problem.arrays, lattices, head, last)
        self._spent = spent

    @property
    def visits(self) -> int:
        """The steps looked at since the lattices were listed."""
        return int(self._memo.visits[0])

    @property
    def spent(self) -> float:
        """All work in seconds of a usual machine; counted, not measured."""
        return self._spent

    @property
    def steps(self) -> int:
        """The size of the lattices."""
        return len(self._lattices.op)

    @property
    def tightest_stream(self) -> int:
        """The stream whose ops have the least slack on average; the first of several.

        An op's slack is how much longer its window is than the op.
        """
        arrays, memo = self._problem.arrays, self._memo
        counts = np.diff(arrays.first_op)
        slack = np.add.reduceat(memo.last - memo.head, arrays.first_op[:-1])
        slack -= counts * arrays.duration
        means = [
            slack[here].sum() / counts[here].sum() if len(here) else np.inf
            for here in (classes_on(arrays, s) for s in range(len(self._problem.rules)))
        ]
        return int(np.argmin(means))

    @property
    def guide(self) -> tuple[Problem, Lattices, Ints, Ints]:
        """The problem, its lattices, and by state L and U (``propagation``)."""
        return self._problem, self._lattices, self._memo.late, self._memo.spare

    @property
    def fillers(self) -> Ints:
        """The classes that each stream's lattice leaves out; rows end with -1."""
        return fillers_left_out(self._problem, self._lattices)

    @property
    def is_filled(self) -> bool:
        """Whether some stream's lattice leaves out fillers."""
        return bool(self._lattices.is_filled.any())

    @property
    def is_whole(self) -> bool:
        """Whether every op is a step of its streams' lattices, or a filler there."""
        lattices, arrays = self._lattices, self._problem.arrays
        is_filler = np.isin(arrays.class_at, self.fillers)
        is_step = lattices.span_end[lattices.first_span[:-1]] >= 0
        counts = np.diff(lattices.first_span)
        return bool((is_filler | is_step | (counts == 0)).all())

    def windows(self) -> Mapping[Op, tuple[int, int]]:
        """Each op's earliest start and latest end."""
        beat = self._problem.beat
        return {
            op: (int(head) * beat, int(last) * beat)
            for op, head, last in zip(
                self._problem.ops, self._memo.head, self._memo.last, strict=True
            )
        }

    def by(self, end: int) -> Windows:
        """The windows of schedules that end by an earlier time, from what is known."""
        static = earliest_and_latest(self._problem.arrays, end)[1]
        return Windows(
            self._problem,
            end,
            self._lattices,
            self._memo.head,
            np.minimum(self._memo.last, static),
        )

    def relisted(
        self, *, most_steps: int, most_full: int | None = None, compile_loops: bool
    ) -> Windows:
        """The same windows on lattices listed anew within them.

        For the limits to their sizes see ``states.lattices_of``.
        """
        lattices = lattices_of(
            self._problem,
            self._memo.head,
            self._memo.last,
            most_steps=most_steps,
            most_full=most_full,
            compile_loops=compile_loops,
        )
        memo, known = self._memo, lattices or self._lattices
        anew = Windows(self._problem, self.end, known, memo.head, memo.last)
        anew.is_refuted = lattices is None
        anew._spent = self._spent + _listing_s(known)
        return anew

    def adopt(self, other: Windows) -> None:
        """Go on as windows of the same end that are narrower."""
        self._spent = other._spent
        self._lattices, self._memo = other._lattices, other._memo
        self.is_refuted = other.is_refuted

    def settle(self, *, compile_loops: bool) -> Iterator[None]:
        """Make the windows as narrow as streams and edges can; in pieces of work."""
        none = np.zeros((0, 3), np.int64)
        for _ in self._run(none, 1, NEVER, compile_loops=compile_loops):
            yield

    def shave(
        self, edges: Ints, least: int, *, patience: int = 0, compile_loops: bool
    ) -> Iterator[int]:
        """Shave these edges of windows; yields how many could be cut so far.

        With ``patience`` a trial looks at no more steps than that many times all, after
        which what it tries counts as possible. Most refutations are found soon, and the
        others cost most of the time.
        """
        most = patience * self.steps if patience else NEVER
        yield from self._run(edges, least, most, compile_loops=compile_loops)

    def edges(self, classes: Ints, *, at_end: bool) -> Ints:
        """One edge of the windows of all ops of some classes, in the order of time."""
        arrays, memo = self._problem.arrays, self._memo
        counts = np.diff(arrays.first_op)[classes]
        c = np.repeat(classes, counts)
        n = np.concatenate([np.arange(count) for count in counts] or [classes[:0]])
        op = arrays.first_op[c] + n
        order = np.argsort(-memo.last[op] if at_end else memo.head[op], kind="stable")
        edge = np.full(len(c), int(at_end))
        return np.stack([c, n, edge], axis=1)[order].astype(np.int64)

    def thin(self) -> None:
        """Drop what these windows forbid from the lattices, if that is much.

        The windows must be settled: states that have not been looked at would go.
        """
        memo = self._memo
        smaller, kept = thinned(
            self._problem.arrays,
            self._lattices,
            memo.head,
            memo.last,
            memo.early,
            memo.late,
            memo.idle,
        )
        if len(smaller.op) < _WORTH_THINNING * len(self._lattices.op):
            self._lattices = smaller
            by_state = {"early": memo.early[kept], "late": memo.late[kept]}
            if len(memo.idle):
                by_state |= {"idle": memo.idle[kept], "spare": memo.spare[kept]}
            self._memo = memo._replace(**by_state)

    def _run(
        self, edges: Ints, least: int, patience: int, *, compile_loops: bool
    ) -> Iterator[int]:
        refine: Any = shaving.refine
        compile_loops |= self.steps >= _LARGEST_PLAIN
        if compile_loops:
            refine = compiled(shaving.refine, *_HELPERS)
        trial = trial_of(self._memo) if len(edges) else self._memo
        cuts = np.zeros(1, np.int64)
        place = 0
        while place <= len(edges) and not self.is_refuted:
            before = self.visits
            place = refine(
                self._problem.arrays,
                self._lattices,
                self._memo,
                trial,
                edges,
                place,
                least,
                patience,
                _VISITS_AT_ONCE,
                cuts,
            )
            self.is_refuted = place < 0
            self._spent += (self.visits - before) * _S_PER_VISIT[compile_loops]
            yield int(cuts[0])


def windows_by(
    problem: Problem,
    end: int,
    *,
    most_steps: int,
    most_full: int | None = None,
    compile_loops: bool,
) -> Windows | None:
    """The windows of schedules that end by ``end``, before anything is settled.

    None if already the lattices show that there is no such schedule. For the limits to
    their sizes see ``states.lattices_of``.
    """
    head, last = earliest_and_latest(problem.arrays, end)
    lattices = lattices_of(
        problem,
        head,
        last,
        most_steps=most_steps,
        most_full=most_full,
        compile_loops=compile_loops,
    )
    if lattices is None:
        return None
    return Windows(problem, end, lattices, head, last, spent=_listing_s(lattices))


def _listing_s(lattices: Lattices) -> float:
    steps = len(lattices.op)
    return steps * _S_PER_STEP[steps >= _LARGEST_PLAIN]


def earliest_and_latest(arrays: Arrays, end: int) -> tuple[Ints, Ints]:
    """Heads and latest ends from precedences and the order within classes."""
    first = arrays.first_op
    counts = np.diff(first)
    head = np.zeros(first[-1], np.int64)
    last = np.full(first[-1], end, np.int64)
    # The n-th op of a class follows n others, each of which takes its time on a stream.
    serial = arrays.duration * (arrays.places[:, 0] >= 0)
    for c, count in enumerate(counts):
        ops = slice(first[c], first[c + 1])
        own = np.arange(count) * serial[c]
        head[ops] = np.maximum.accumulate(head[ops] - own) + own
        for other, wait in _listed(arrays.following[c], arrays.follow_wait[c]):
            later = slice(first[other], first[other + 1])
            head[later] = np.maximum(head[later], head[ops] + wait)
    for c in range(len(counts) - 1, -1, -1):
        ops = slice(first[c], first[c + 1])
        own = np.arange(counts[c])[::-1] * serial[c]
        last[ops] = np.minimum.accumulate((last[ops] + own)[::-1])[::-1] - own
        for other, wait in _listed(arrays.leading[c], arrays.lead_wait[c]):
            earlier = slice(first[other], first[other + 1])
            last[earlier] = np.minimum(last[earlier], last[ops] - wait)
    return head, last


def _listed(classes: Ints, waits: Ints) -> Iterator[tuple[int, int]]:
    for c, wait in zip(classes, waits, strict=True):
        if c >= 0:
            yield c, wait
