"""A parametric greedy: at every step the device with the least key runs its best offer.

Each device offers, for each of its rows, the next backward whose input is scheduled,
the next forward whose input is scheduled if the row's in-flight cap and the memory
allow it, and the next W. An offer's key is its earliest start plus a penalty; the least
key over all devices is committed, ties to backwards, then forwards.

A forward of a row is admitted only if its microbatch can still pass the later rows of
its lane on this device beside what this and earlier rows hold, and one microbatch of
each other lane that has any in flight, too. It enters its lane only if that is so on
all devices from the start: so one that has entered can always finish.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from schedopt.compiled import compiled
from schedopt.search.arrays import Ints, LaneArrays

NO_CAP = 2**40
_LATE = 2**62


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """The greedy's parameters, by row; times in ticks.

    Attributes
    ----------
    cap : array
        Microbatches that may have started F and not ended B.
    forward_penalty : array
        How long a forward waits for a backward that is about to come.
    weight_penalty : array
        The least gap that a W fills while a forward may still come.
    blocked_weight_penalty : array
        The same while no forward is admitted.
    """

    cap: Ints
    forward_penalty: Ints
    weight_penalty: Ints
    blocked_weight_penalty: Ints


def greedy(arrays: LaneArrays, rule: Rule, *, compile_loops: bool) -> Ints | None:
    """The ends by op number, ticks; None if the rule gets stuck."""
    run: Any = compiled(_run) if compile_loops else _run
    done, end = run(
        arrays.device,
        arrays.forward,
        arrays.backward,
        arrays.weight,
        arrays.held,
        arrays.freed,
        arrays.gradient,
        arrays.lag_forward,
        arrays.lag_backward,
        arrays.lane,
        arrays.microbatches,
        arrays.split,
        arrays.first_op,
        arrays.room,
        rule.cap,
        rule.forward_penalty,
        rule.weight_penalty,
        rule.blocked_weight_penalty,
    )
    return end if done else None


def _run(  # noqa: PLR0913, PLR0917, PLR0912, PLR0915, C901 - one loop over arrays, as numba needs it
    device: Ints,
    forward: Ints,
    backward: Ints,
    weight: Ints,
    held: Ints,
    freed: Ints,
    gradient: Ints,
    lag_forward: Ints,
    lag_backward: Ints,
    lane: Ints,
    microbatches: Ints,
    split: Ints,
    first_op: Ints,
    room: Ints,
    cap: Ints,
    forward_penalty: Ints,
    weight_penalty: Ints,
    blocked_weight_penalty: Ints,
) -> tuple[bool, Ints]:
    rows = len(device)
    devices = len(room)
    total = first_op[rows]
    end = np.zeros(total, np.int64)
    free_at = np.zeros(devices, np.int64)
    used = np.zeros(rows, np.int64)
    used_on = np.zeros(devices, np.int64)
    done_f = np.zeros(rows, np.int64)
    done_b = np.zeros(rows, np.int64)
    done_w = np.zeros(rows, np.int64)
    offer_key = np.full(devices, _LATE, np.int64)
    offer_start = np.zeros(devices, np.int64)
    offer_row = np.full(devices, -1, np.int64)
    offer_kind = np.zeros(devices, np.int64)
    stale = np.ones(devices, np.int64)
    flying = np.zeros(rows, np.int64)
    together = np.zeros(devices, np.int64)
    gradients = np.zeros(devices, np.int64)
    for _ in range(total):
        for d in range(devices):
            if stale[d] == 0:
                continue
            stale[d] = 0
            best_key = _LATE
            best_start = 0
            best_row = -1
            best_kind = 0
            forward_open = False
            # Backwards first, then forwards; W last, since it needs `forward_open`.
            for r in range(rows):
                if device[r] != d:
                    continue
                n = done_b[r]
                if n < done_f[r] and used_on[d] + gradient[r] <= room[d]:
                    last = r + 1 == rows or lane[r + 1] != lane[r]
                    ready = -1
                    if last:
                        ready = end[first_op[r] + n]
                    elif done_b[r + 1] > n:
                        ready = (
                            end[first_op[r + 1] + microbatches[r + 1] + n]
                            + lag_backward[r]
                        )
                    if ready >= 0:
                        start = max(ready, free_at[d])
                        if start < best_key:
                            best_key = start
                            best_start = start
                            best_row = r
                            best_kind = 1
            for r in range(rows):
                if device[r] != d:
                    continue
                n = done_f[r]
                if n >= microbatches[r] or n - done_b[r] >= cap[r]:
                    continue
                if used_on[d] + held[r] > room[d]:
                    continue
                level = held[r]
                theirs = 0
                for other in range(rows):
                    if device[other] != d:
                        continue
                    if lane[other] != lane[r]:
                        level += used[other]
                        if flying[lane[other]] > 0:
                            level += max(0, held[other] - used[other])
                            theirs = max(theirs, gradient[other])
                    elif other <= r:
                        level += used[other]
                peak = level + max(gradient[r], theirs)
                for other in range(r + 1, rows):
                    if device[other] == d and lane[other] == lane[r]:
                        level += held[other]
                        peak = max(peak, level + max(gradient[other], theirs))
                if peak > room[d]:
                    continue
                entry = r == 0 or lane[r - 1] != lane[r]
                if entry and lane[rows - 1] > 0 and flying[lane[r]] == 0:
                    together[:] = 0
                    gradients[:] = 0
                    for other in range(rows):
                        if lane[other] == lane[r] or flying[lane[other]] > 0:
                            place = device[other]
                            together[place] += held[other]
                            gradients[place] = max(gradients[place], gradient[other])
                    if (together + gradients > room).any():
                        continue
                ready = 0
                if not entry:
                    if done_f[r - 1] <= n:
                        continue
                    ready = end[first_op[r - 1] + n] + lag_forward[r]
                forward_open = True
                start = max(ready, free_at[d])
                if start + forward_penalty[r] < best_key:
                    best_key = start + forward_penalty[r]
                    best_start = start
                    best_row = r
                    best_kind = 0
            for r in range(rows):
                if device[r] != d or split[r] == 0 or done_w[r] >= done_b[r]:
                    continue
                start = max(free_at[d], end[first_op[r] + microbatches[r] + done_w[r]])
                penalty = (
                    weight_penalty[r] if forward_open else blocked_weight_penalty[r]
                )
                if start + penalty < best_key:
                    best_key = start + penalty
                    best_start = start
                    best_row = r
                    best_kind = 2
            offer_key[d] = best_key
            offer_start[d] = best_start
            offer_row[d] = best_row
            offer_kind[d] = best_kind
        chosen = -1
        for d in range(devices):
            if offer_row[d] >= 0 and (chosen < 0 or offer_key[d] < offer_key[chosen]):
                chosen = d
        if chosen < 0:
            return False, end
        r = offer_row[chosen]
        kind = offer_kind[chosen]
        if kind == 0:
            n = done_f[r]
            done_f[r] += 1
            duration = forward[r]
            used[r] += held[r]
            used_on[chosen] += held[r]
        elif kind == 1:
            n = done_b[r]
            done_b[r] += 1
            duration = backward[r]
            used[r] += gradient[r] - freed[r]
            used_on[chosen] += gradient[r] - freed[r]
        else:
            n = done_w[r]
            done_w[r] += 1
            duration = weight[r]
            used[r] -= held[r] - freed[r] + gradient[r]
            used_on[chosen] -= held[r] - freed[r] + gradient[r]
        op = first_op[r] + kind * microbatches[r] + n
        end[op] = offer_start[chosen] + duration
        free_at[chosen] = end[op]
        stale[chosen] = 1
        if kind < 2 and (r == 0 or lane[r - 1] != lane[r]):
            # A lane that begins or ends to have microbatches in flight matters to all.
            flying[lane[r]] += 1 - 2 * kind
            if flying[lane[r]] == 1 - kind:
                stale[:] = 1
        if r > 0 and lane[r - 1] == lane[r]:
            stale[device[r - 1]] = 1
        if r + 1 < rows and lane[r + 1] == lane[r]:
            stale[device[r + 1]] = 1
    return True, end
