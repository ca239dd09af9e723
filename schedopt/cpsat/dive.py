"""Whether a schedule ends by some time, where windows of all ops are known.

Narrow windows (``schedopt.lattice``) leave CP-SAT little to decide: where a bound is
the optimum, it often finds the schedule that everything else has missed, or shows that
there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schedopt.cpsat.coarse import LARGEST_HORIZON, coarsened, exact_scale
from schedopt.cpsat.model import Effort, Outcome, run
from schedopt.cpsat.replaying import replayed
from schedopt.cpsat.variables import Scope
from schedopt.instance import Objective
from schedopt.opgraph import OpGraph
from schedopt.ops import Op
from schedopt.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Answer:
    """``schedule`` ends by the time asked for; ``is_refuted``: none does.

    Neither: it is not known; ``applies``: it may be with more time.
    """

    schedule: Schedule | None = None
    is_refuted: bool = False
    applies: bool = True


def dive(
    graph: OpGraph,
    windows: Mapping[Op, tuple[int, int]],
    end: int,
    effort: Effort,
) -> Answer:
    """Look for a schedule with a makespan of at most ``end`` ticks.

    Parameters
    ----------
    windows
        Each op's earliest start and latest end, ticks, in those schedules that end by
        ``end`` and in which equal microbatches pass in order.
    """
    scale = exact_scale(graph)
    if end // scale > LARGEST_HORIZON:
        return Answer(applies=False)  # time would have to be rounded
    coarse = coarsened(graph, scale, round_up=True)
    last = end // scale
    scope = Scope(
        graph=coarse,
        head={op: -(-first // scale) for op, (first, _) in windows.items()},
        tail={op: last - latest // scale for op, (_, latest) in windows.items()},
        horizon=last,
        lower_bound=last,  # whichever it is: nothing is minimised
        upper_bound=last,
        is_in_order=True,
    )
    result = run(scope, Objective.MAKESPAN, effort)
    if result.outcome is Outcome.INFEASIBLE:
        return Answer(is_refuted=True)
    if result.start is None:
        return Answer()
    found = Schedule(coarse, result.start)
    return Answer(replayed(graph, found, Objective.MAKESPAN))
