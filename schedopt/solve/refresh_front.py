"""The front of step time against refresh interval.

Here steps may be longer than the pipeline and its preconditioning, so that forwards,
backwards and second-order work are scheduled together: for each interval the least step
time is looked for, from 1 to the first interval that needs no longer step.

A frame is stretched by so many ticks a step, and a packing is looked for; by how much
is found by bisection between what the bounds allow and the best step time known. Plain
K-FAC, whose work is exposed in the first step of every cycle, is known from the start
for every interval. The first search is for the interval that needs no longer step;
then rounds of bisection follow, each finer and with more time for an attempt, until
time is up or the rounds are over. What has been found stays found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from schedopt.bounds import quick_bounds
from schedopt.build import build_graph
from schedopt.cpsat import Sliding, exact_scale, require_known, require_no_alternatives
from schedopt.cpsat.coarse import LARGEST_HORIZON
from schedopt.instance import Instance, Objective
from schedopt.refresh.cycle import Cycle
from schedopt.refresh.frame import Frame, pipeline_alone
from schedopt.refresh.problem import problem_of
from schedopt.refresh.settings import Freedom, Minimise
from schedopt.refresh.step_bounds import StepBound, StepBounds
from schedopt.refresh.stretching import exposed_cycles, stretched
from schedopt.schedule import Schedule
from schedopt.solve.frames import NamedFrame, frame_around
from schedopt.solve.interrupts import hearing_interrupts
from schedopt.solve.refresh import solve_refresh
from schedopt.solve.refresh_attempts import Packed, attempt, is_valid
from schedopt.solve.refresh_solution import RefreshParameters
from schedopt.solve.solution import SolveParameters
from schedopt.solve.solving import solve

_SHARE_OF_PIPELINE = 0.1  # of the time, for its bound
_SHARE_OF_REFRESH = 0.25  # of the time, for the interval that needs no longer step
_ROUNDS = ((4.0, 50, 1), (8.0, 200, 2), (16.0, 1000, 4), (32.0, 4000, 4))
"""Seconds for an attempt; in how many parts of a step bisection tells step times; how
many intervals beyond the first that no bound excludes without longer steps."""
_MORE_INTERVALS = max(more for _, _, more in _ROUNDS)
_OWN = "schedopt's own"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """The shortest steps found at an interval.

    Attributes
    ----------
    pipeline : str
        Whose schedule the pipeline has, or had before it moved.
    packed : Packed
        The cycle; it has passed the verifier.
    is_exposed : bool
        Whether it is plain K-FAC, whose second-order work nothing hides.
    bound : StepBound
        What no step time at this interval is below.
    """

    pipeline: str
    packed: Packed
    is_exposed: bool
    bound: StepBound

    @property
    def interval(self) -> int:
        """Steps from one refresh to the next."""
        return self.packed.cycle.interval

    @property
    def step_time(self) -> int:
        """The cycle's length divided by its steps, ticks."""
        return self.packed.cycle.frame.period

    @property
    def gap(self) -> float:
        """(step time - bound) / step time."""
        return (self.step_time - self.bound.ticks) / self.step_time


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """What was found.

    Attributes
    ----------
    points : tuple of FrontPoint
        By interval; each has shorter steps than those before it.
    shortest : int
        A step of the pipeline and its preconditioning without a refresh, ticks.
    exposed : tuple of int
        The step time of plain K-FAC at the interval of each point, ticks.
    is_interrupted : bool
        Whether Ctrl-C ended the search.
    """

    frame: Frame
    parameters: RefreshParameters
    points: tuple[FrontPoint, ...]
    shortest: int
    exposed: tuple[int, ...]
    is_interrupted: bool
    wall_seconds: float

    @property
    def is_complete(self) -> bool:
        """Whether the last point needs no longer steps than the pipeline itself."""
        return bool(self.points) and self.points[-1].step_time <= self.shortest


FrontProgress = Callable[[FrontPoint], None]
"""Told of every point that is better than what was known."""


def solve_front(
    frames: Sequence[NamedFrame],
    parameters: RefreshParameters,
    progress: FrontProgress = lambda _: None,
    *,
    may_add_own: bool = False,
) -> Front:
    """Find the front of frames of one instance, as far as the time allows.

    Ctrl-C (KeyboardInterrupt) ends the search at the end of an attempt.

    Parameters
    ----------
    may_add_own : bool
        Whether a pipeline schedule that is better than that of all frames may be one
        more, if solving for the bound finds it.

    Raises
    ------
    NotApplicableError
        If the pipeline may move and reductions of factors take time, or if it has
        alternative ops.
    """
    require_no_alternatives(frames[0].frame)
    if parameters.freedom is not Freedom.FROZEN:
        require_known(problem_of(frames[0].frame, 1))
    search = _Search(frames, parameters, progress)
    with hearing_interrupts() as interrupts:
        search.begin(may_add_own=may_add_own)
        for each in search.attempts():
            if interrupts.heard or search.is_over:
                break
            try:
                with interrupts.let_in():
                    found = each()
            except KeyboardInterrupt:
                break
            if found is not None:
                search.take(found)
        return search.front(is_interrupted=interrupts.take())


class _Search:
    def __init__(
        self,
        frames: Sequence[NamedFrame],
        parameters: RefreshParameters,
        progress: FrontProgress,
    ) -> None:
        self.began = time.monotonic()
        self.frames = list(frames)
        self.parameters = parameters
        self.progress = progress
        self.best: dict[int, FrontPoint] = {}
        self.exposed: dict[int, int] = {}
        # Ticks by which a frame must be stretched at an interval, as attempts proved.
        self.needed: dict[tuple[int, str], int] = {}
        self.bounds = StepBounds(frames[0].frame, 0, wrap=parameters.wrap)
        self.least = self.most = 1

    def begin(self, *, may_add_own: bool) -> None:
        """Find the bound of the pipeline, and plain K-FAC of every interval."""
        self._bound_pipeline(may_add_own=may_add_own)
        self.least = self.bounds.least_interval(self._shortest) or 1
        self.most = self.least + _MORE_INTERVALS
        for named in self.frames:
            for cycle in exposed_cycles(named.frame, range(1, self.most + 1)):
                self._take_exposed(named, cycle)

    @property
    def is_over(self) -> bool:
        """Whether time is up."""
        return self._left() <= 0

    @property
    def _shortest(self) -> int:
        return min(named.frame.period for named in self.frames)

    # -- what is known from the start -----------------------------------------

    def _bound_pipeline(self, *, may_add_own: bool) -> None:
        """The bound that the pipeline alone gives; perhaps a better schedule of it."""
        frame = self.frames[0].frame
        plain = pipeline_alone(frame.instance)
        objective = Objective.MAKESPAN if frame.ends_together else Objective.DEVICE_SPAN
        bound = max(quick_bounds(build_graph(plain), objective).values(), default=0)
        values = [_value(named.frame, plain, objective) for named in self.frames]
        if bound < min(values):
            solution = solve(
                plain,
                SolveParameters(
                    time_limit_s=_SHARE_OF_PIPELINE * self.parameters.time_limit_s,
                    workers=self.parameters.workers,
                    seed=self.parameters.seed,
                    objective=objective,
                ),
            )
            bound = max(bound, solution.lower_bound)
            schedule = solution.schedule
            if may_add_own and schedule is not None:
                own = frame_around(schedule, _OWN, frame.instance)
                if own.frame.period < self._shortest:
                    self.frames.insert(0, own)
        self.bounds = StepBounds(frame, bound, wrap=self.parameters.wrap)

    def _take_exposed(self, named: NamedFrame, cycle: Cycle) -> None:
        interval, step_time = cycle.interval, cycle.frame.period
        self.exposed[interval] = min(step_time, self.exposed.get(interval, step_time))
        is_better = step_time < self._limit(interval)
        if is_better and is_valid(cycle, may_be_longer=True):
            packed = Packed(cycle, Freedom.FROZEN, 0)
            self.take(self._point(named, packed, is_exposed=True))

    # -- attempts -------------------------------------------------------------

    def attempts(self) -> Iterator[Callable[[], FrontPoint | None]]:
        """What to do next; what is found changes what follows."""
        for named in self.frames:
            is_open = self.most > self.least  # not yet known to be the least
            if is_open and named.frame.period == self._shortest:
                yield partial(self._without_longer_steps, named)
        for seconds, parts, more in _ROUNDS:
            interval = 1
            while interval <= min(self.most, self.least + more):
                for named in self.frames:
                    for ticks in self._bisection(interval, named, parts):
                        yield partial(self._stretched, interval, named, ticks, seconds)
                interval += 1

    def _bisection(self, interval: int, named: NamedFrame, parts: int) -> Iterator[int]:
        """By how many ticks to stretch a frame next; at last by the least possible."""
        scale = _scale(named.frame)
        period = named.frame.period
        fine = max(1, period // parts // scale)
        least = low = self._least(interval, named) // scale

        def high() -> int:
            return -(-(self._limit(interval) - period) // scale)

        while high() - low > fine:
            middle = (low + high()) // 2
            yield middle * scale
            if high() > middle:  # nothing was found
                low = middle
        if low == least < high():
            yield least * scale

    def _least(self, interval: int, named: NamedFrame) -> int:
        """By what a frame is stretched at least, ticks, as the bounds say."""
        missing = max(0, self.bounds.at(interval).ticks - named.frame.period)
        missing = max(missing, self.needed.get((interval, named.name), 0))
        scale = _scale(named.frame)
        return -(-missing // scale) * scale

    def _limit(self, interval: int) -> int:
        """A point of an interval must have a step time below this, ticks."""
        known = [p.step_time for k, p in self.best.items() if k <= interval]
        return min(known, default=2**62)

    def _without_longer_steps(self, named: NamedFrame) -> FrontPoint | None:
        """The least interval that needs no longer steps."""
        count = sum(other.frame.period == self._shortest for other in self.frames)
        limit_s = _SHARE_OF_REFRESH * self.parameters.time_limit_s / count
        parameters = replace(
            self.parameters, minimise=Minimise.INTERVAL, time_limit_s=limit_s
        )
        found = solve_refresh(named.frame, parameters)
        if found.cycle is None or found.cycle.frame.period >= self._limit(
            found.cycle.interval
        ):
            return None
        return self._point(named, Packed(found.cycle, found.freedom, found.swaps))

    def _stretched(
        self, interval: int, named: NamedFrame, ticks: int, seconds: float
    ) -> FrontPoint | None:
        """A packing with longer steps, with as little freedom as does."""
        task = Sliding(
            frame=stretched(named.frame, ticks),
            interval=interval,
            wrap=self.parameters.wrap,
        )
        is_impossible = True
        for freedom in self.parameters.freedom.up_to:
            left = min(seconds, self._left())
            if left <= 0:
                break
            effort = self.parameters.effort(left)
            found = attempt(freedom, task, effort)
            if found.packed is not None:
                return self._point(named, found.packed)
            is_impossible = is_impossible and found.is_impossible
        else:
            if is_impossible:
                self.needed[interval, named.name] = ticks + 1
        return None

    def take(self, point: FrontPoint) -> None:
        """A point that is better than what was known."""
        self.best[point.interval] = point
        if point.step_time <= self._shortest:
            self.most = min(self.most, point.interval)
        if not point.is_exposed:  # that is known without a search
            self.progress(point)

    def _point(
        self, named: NamedFrame, packed: Packed, *, is_exposed: bool = False
    ) -> FrontPoint:
        return FrontPoint(
            pipeline=named.name,
            packed=packed,
            is_exposed=is_exposed,
            bound=self.bounds.at(packed.cycle.interval),
        )

    def _left(self) -> float:
        return self.began + self.parameters.time_limit_s - time.monotonic()

    # -- results --------------------------------------------------------------

    def front(self, *, is_interrupted: bool) -> Front:
        """The points that no other one beats."""
        points: list[FrontPoint] = []
        for interval in sorted(self.best):
            point = self.best[interval]
            if not points or point.step_time < points[-1].step_time:
                points.append(point)
        return Front(
            frame=self.frames[0].frame,
            parameters=self.parameters,
            points=tuple(points),
            shortest=self._shortest,
            exposed=tuple(self.exposed[point.interval] for point in points),
            is_interrupted=is_interrupted,
            wall_seconds=time.monotonic() - self.began,
        )


def _scale(frame: Frame) -> int:
    """Ticks by which a frame may be stretched without finer times for the solver."""
    moments = (frame.period, frame.pipeline_end)
    scale = exact_scale(frame.with_refresh, moments)
    if frame.period <= LARGEST_HORIZON * scale:
        return scale
    return exact_scale(frame.graph, moments)


def _value(frame: Frame, plain: Instance, objective: Objective) -> int:
    """The pipeline's makespan or longest device span in a frame, ticks."""
    graph = build_graph(plain)
    start = {op: time for op, time in frame.start.items() if op in graph.data}
    return Schedule(graph, start).value(objective)
