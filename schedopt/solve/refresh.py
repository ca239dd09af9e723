"""The objective ``refresh``: second-order work in the gaps of a pipeline's schedule.

First the pipeline stands still (``refresh_frozen``). What that finds is also a packing
of a pipeline that may move, which gets most of the time if it is asked for
(``refresh_moving``).
"""

from __future__ import annotations

from dataclasses import replace

from schedopt.cpsat import require_known
from schedopt.errors import NotApplicableError
from schedopt.refresh.frame import Frame
from schedopt.refresh.problem import problem_of
from schedopt.refresh.settings import Freedom, Minimise
from schedopt.solve.refresh_frozen import solve_frozen
from schedopt.solve.refresh_moving import improve_moving
from schedopt.solve.refresh_solution import (
    Progress,
    RefreshParameters,
    RefreshSolution,
)

_SHARE_OF_FROZEN = 0.3  # of the time, where the pipeline may move


def solve_refresh(
    frame: Frame,
    parameters: RefreshParameters,
    progress: Progress = lambda _: None,
) -> RefreshSolution:
    """Pack the frame's second-order work as well as the time allows.

    Raises
    ------
    NotApplicableError
        If the pipeline may move and the training has, or what is minimised is,
        something that is known of a frozen one only.
    """
    if parameters.freedom is Freedom.FROZEN:
        return solve_frozen(frame, parameters, progress)
    require_movable(frame, parameters)
    limit_s = _SHARE_OF_FROZEN * parameters.time_limit_s
    short = replace(parameters, freedom=Freedom.FROZEN, time_limit_s=limit_s)
    frozen = solve_frozen(frame, short, progress)
    return improve_moving(frozen, parameters, progress)


def require_movable(frame: Frame, parameters: RefreshParameters) -> None:
    """Refuse what is known of a pipeline that stands still only.

    Raises
    ------
    NotApplicableError
        If peak memory is minimised, or reductions of factors take time.
    """
    if parameters.minimise is Minimise.MEMORY:
        msg = (
            f"--minimise {parameters.minimise.value} needs --freedom"
            f" {Freedom.FROZEN.value}: memory is not modelled where the pipeline moves"
        )
        raise NotApplicableError(msg)
    require_known(problem_of(frame, 1))
