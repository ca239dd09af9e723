"""Over the rules of the guided greedy: random ones first, then better from the best.

Rules are drawn by what classes do: those that *open* make buffers, those that *pass on*
are waited for on other streams, the rest may wait. Climbing changes weights, likings
and caps of random ranges of stages. A few rules climb side by side, each at a place of
its own heat: the first gives way only to what is no worse, the others also to what is a
little worse, so that they leave where nothing near is better. Better rules always stand
at cooler places (after parallel tempering: Swendsen and Wang, Physical Review Letters
57, 1986, page 2607).
"""

from __future__ import annotations

import random

import numpy as np

from schedopt.lattice import Ints, Problem, Windows
from schedopt.search.guided import NO_CAP, Rule, guided
from schedopt.search.tables import class_tables_of

_HEAT = (0.0, 0.0005, 0.001, 0.003)
"""By place: how much longer a schedule may be than that of the rule that gives way to
it, relative to that; on average, as it is drawn from an exponential distribution."""

_BEGINNING = 250
"""Ops that run in the time in which a trial begins."""


class Climber:
    """Draws rules and improves them; every trial is a schedule or nothing.

    Attributes
    ----------
    effort : int
        The ops that all trials have run so far, and others for beginning each.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        self._problem = problem
        self._tables = class_tables_of(problem)
        self._rng = random.Random(seed)
        self._mean = float(problem.arrays.duration.mean())
        self._stage = np.array(
            [problem.ops[first].stage for first in problem.arrays.first_op[:-1]]
        )
        self.closing = _closing(problem)
        self._opens = self.closing >= 0
        self._passes_on = _passes_on(problem) & ~self._opens
        self._turn = self._turns()
        self._most = self._most_open()
        self._best: list[tuple[int, Rule]] = []
        self._adopted: set[Rule] = set()
        self.effort = 0

    def draw(
        self, windows: Windows, within: int = 0, *, compile_loops: bool
    ) -> Ints | None:
        """The schedule of a random rule; None if it is of no use.

        ``within`` is the latest end, beats, that is of use to whoever asks; what gives
        a better rule is, too.
        """
        return self._enter(windows, self._random(), within, compile_loops=compile_loops)

    def climb(
        self, windows: Windows, within: int = 0, *, compile_loops: bool
    ) -> Ints | None:
        """The schedule of a rule near one of the best; None if it is of no use."""
        if not self._best:
            return self.draw(windows, within, compile_loops=compile_loops)
        place = self._rng.randrange(len(self._best))
        makespan, rule = self._best[place]
        most = int(makespan * (1 + _HEAT[place] * self._rng.expovariate(1)))
        rule = self._changed(rule)
        return self._try(
            windows, rule, place, most, within, compile_loops=compile_loops
        )

    @property
    def rules(self) -> list[Rule]:
        """The rules that climb, the best first."""
        return [rule for _, rule in self._best]

    def adopt(
        self, windows: Windows, rule: Rule, *, compile_loops: bool
    ) -> Ints | None:
        """The schedule of a rule that did well elsewhere; None if it does not here.

        Each is tried once.
        """
        if rule in self._adopted:
            return None
        self._adopted.add(rule)
        return self._enter(windows, rule, 0, compile_loops=compile_loops)

    def _enter(
        self, windows: Windows, rule: Rule, within: int, *, compile_loops: bool
    ) -> Ints | None:
        """Try a rule at a free place; if there is none, at the hottest."""
        place, most = len(self._best), None
        if place == len(_HEAT):
            place -= 1
            most = self._best[place][0]
        return self._try(
            windows, rule, place, most, within, compile_loops=compile_loops
        )

    def _try(
        self,
        windows: Windows,
        rule: Rule,
        place: int,
        most: int | None,
        within: int,
        *,
        compile_loops: bool,
    ) -> Ints | None:
        """A rule's schedule; the rule takes a place if it ends by ``most``, beats."""
        ends, ran = guided(
            windows,
            self._tables,
            rule,
            self.closing,
            within=None if most is None else max(within, most),
            compile_loops=compile_loops,
        )
        self.effort += ran + _BEGINNING
        if ends is None:
            return None
        makespan = int(ends.max())
        if most is not None and makespan > most:
            return ends
        self._best[place : place + 1] = [(makespan, rule)]
        self._best.sort(key=lambda found: found[0])
        return ends

    def _random(self) -> Rule:
        """Weights, and for each turn likings and caps that fall along the stages."""
        rng, mean = self._rng, self._mean
        liking = np.zeros(len(self.closing))
        cap = np.full(len(self.closing), NO_CAP, np.int64)
        turns = int(self._turn.max(initial=0)) + 1
        alike = turns == 1 or rng.random() < 0.5
        drawn = [rng.choice((0, 0.5, 1, 2)), rng.choice((0, -0.5, 0.5))]
        for turn in range(turns):
            if not alike:
                drawn = [rng.choice((0, 0.5, 1, 2)), rng.choice((-1, -0.5, 0, 0.5, 1))]
            liking[self._passes_on & (self._turn == turn)] = drawn[0] * mean
            liking[self._opens & (self._turn == turn)] = drawn[1] * mean
            if turns == 1:
                continue
            # Several classes of a stream share its memory; how, is drawn.
            opening = np.flatnonzero(self._opens & (self._turn == turn))
            share, slope = rng.random(), rng.choice((0, 0, 0.5, 1, 2))
            for rank, c in enumerate(opening):
                wanted = 1 + share * self._most[c] - slope * rank
                cap[c] = max(1, int(wanted) + rng.choice((0, 0, 0, 1, -1)))
        return Rule(
            slack=rng.choice((1.0, 1.0, 0.5, 0.25)),
            idling=rng.choice((0, 0.25, 0.5, 1, 2, 4)),
            liking=liking,
            cap=cap,
        )

    def _changed(self, rule: Rule) -> Rule:
        """One random change of a rule."""
        rng = self._rng
        slack, idling = rule.slack, rule.idling
        liking, cap = rule.liking.copy(), rule.cap.copy()
        first = rng.randrange(int(self._stage.max()) + 1)
        last = rng.randrange(first, int(self._stage.max()) + 1)
        here = (first <= self._stage) & (self._stage <= last)
        what = rng.random()
        if what < 0.1:
            idling = idling * rng.choice((0.5, 0.8, 1.25, 2)) + rng.choice((0, 0, 0.1))
        elif what < 0.2:
            slack *= rng.choice((0.5, 0.8, 1.25, 2))
        elif what < 0.6:
            some = rng.choice(
                (self._opens, self._passes_on, ~(self._opens | self._passes_on))
            )
            step = rng.choice((-1, -0.5, -0.2, 0.2, 0.5, 1)) * self._mean
            liking[here & some] += step
        else:
            step = rng.choice((-2, -1, 1, 2))
            for c in np.flatnonzero(here & self._opens):
                cap[c] = max(1, min(cap[c], self._most[c]) + step)
        return Rule(slack, idling, liking, cap)

    def _turns(self) -> Ints:
        """How many stages of its stream come before the class's own."""
        arrays = self._problem.arrays
        turn = np.zeros(len(self.closing), np.int64)
        for s in range(len(arrays.first_place) - 1):
            here = arrays.class_at[arrays.first_place[s] : arrays.first_place[s + 1]]
            stages = np.unique(self._stage[here])
            turn[here] = np.searchsorted(stages, self._stage[here])
        return turn

    def _most_open(self) -> Ints:
        """How many ops of each class memory could hold, alone on its stream."""
        arrays = self._problem.arrays
        most = np.diff(arrays.first_op)
        for s, rules in enumerate(self._problem.rules):
            for q in range(len(rules.counts)):
                size = int(rules.size[rules.maker == q].sum())
                if size > 0:
                    c = arrays.class_at[arrays.first_place[s] + q]
                    most[c] = max(1, min(most[c], rules.room // size))
        return most


def _closing(problem: Problem) -> Ints:
    """For each class the first one that frees what it makes; -1 if there is none."""
    closing = np.full(len(problem.arrays.duration), -1, np.int64)
    for stream, rules in enumerate(problem.rules):
        place = problem.arrays.first_place[stream]
        for b in range(len(rules.maker)):
            maker = problem.arrays.class_at[place + rules.maker[b]]
            users = rules.users[rules.first_user[b] : rules.first_user[b + 1]]
            for user in problem.arrays.class_at[place + users]:
                if user != maker and (closing[maker] < 0 or user < closing[maker]):
                    closing[maker] = user
    return closing


def _passes_on(problem: Problem) -> np.ndarray:
    """Whether ops of other streams wait for a class."""
    arrays = problem.arrays
    stream_at = np.repeat(np.arange(len(problem.streams)), np.diff(arrays.first_place))
    streams = [set(stream_at[row[row >= 0]].tolist()) for row in arrays.places]
    return np.array(
        [
            any(streams[c] != streams[other] for other in row[row >= 0])
            for c, row in enumerate(arrays.following)
        ]
    )
