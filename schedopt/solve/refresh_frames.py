"""A refresh in whichever of several frames allows the best one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from schedopt.solve.frames import NamedFrame
from schedopt.solve.interrupts import hearing_interrupts
from schedopt.solve.refresh import solve_refresh
from schedopt.solve.refresh_solution import (
    Progress,
    RefreshParameters,
    RefreshSolution,
)

_LEAST_S = 1.0  # for a frame, though the others took all of the time


def _silent(_: str) -> Progress:
    return lambda _: None


def solve_in_frames(
    frames: Sequence[NamedFrame],
    parameters: RefreshParameters,
    progress_of: Callable[[str], Progress] = _silent,
) -> tuple[NamedFrame, RefreshSolution]:
    """The best refresh in any of some frames, and the frame that it is in.

    The frames share the time limit; ``progress_of`` gives what a frame of that name is
    told to. At least one frame. Ctrl-C ends the search with what has been found.
    """
    began = time.monotonic()
    with hearing_interrupts() as interrupts:
        found: list[tuple[NamedFrame, RefreshSolution]] = []
        for number, named in enumerate(frames):
            if interrupts.heard and found:
                break
            left = began + parameters.time_limit_s - time.monotonic()
            share = max(left / (len(frames) - number), _LEAST_S)
            mine = replace(parameters, time_limit_s=share)
            solution = solve_refresh(named.frame, mine, progress_of(named.name))
            found.append((named, solution))
        named, best = min(found, key=lambda pair: pair[1].rank)
        return named, replace(best, is_interrupted=interrupts.take())
