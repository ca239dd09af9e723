"""The steps of one stream's lattice, listed state by state; see ``states``."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from schedopt.compiled import compiled
from schedopt.lattice.problem import Ints, Problem, StreamRules

Int32s = npt.NDArray[np.int32]
Numbers = npt.NDArray[np.uint32]

_LONGEST_PLAIN = 5_000
"""Steps of a stream from which on listing is compiled in any case."""

_KEY_BITS = 62
_PRIME, _MIXING = 2147483629, 1518500249  # their product fits in 62 bits


class Part(NamedTuple):
    """One stream's lattice; states counted from its own first."""

    first_step: Ints
    op: Numbers
    after: Numbers
    level: Int32s
    must: Ints
    most: Ints


def listed(
    problem: Problem,
    stream: int,
    rules: StreamRules,
    head: Ints,
    last: Ints,
    most: int,
    *,
    compile_loops: bool,
) -> Part | None:
    """A stream's lattice by these rules, without steps if it has no path.

    None if it would have more than ``most`` steps.
    """
    bits = [max(1, int(count).bit_length()) for count in rules.counts]
    if sum(bits) > _KEY_BITS:
        return None
    arrays = problem.arrays
    places = slice(arrays.first_place[stream], arrays.first_place[stream + 1])
    on_stream = arrays.class_at[places]
    first_op = arrays.first_op[on_stream[rules.core]]
    heads = [head[arrays.first_op[c]] for c in on_stream]
    shift = np.cumsum([0, *bits[:-1]]).astype(np.int64)
    since = min(heads, default=0)
    plain: Any = _enumerate
    if not compile_loops:
        few = min(most, _LONGEST_PLAIN)
        known, *found = plain(rules, first_op, shift, head, last, since, few)
        if known or few == most:
            return Part(*found) if known else None
    fast: Any = compiled(_enumerate, _slot, _filling)
    known, *found = fast(rules, first_op, shift, head, last, since, most)
    return Part(*found) if known else None


def _slot(table: Int32s, keys: Ints, key: int) -> int:
    """Where ``key`` is in the hash table, or the free place where it belongs."""
    mask = len(table) - 1
    place = ((key % _PRIME) * _MIXING >> 16) & mask
    while table[place] >= 0 and keys[table[place]] != key:
        place = (place + 1) & mask
    return place


def _filling(rules: StreamRules, available: Ints, released: Ints, missing: int) -> int:
    """The least time in which fillers free so much; -1 if they cannot."""
    if missing <= 0:
        return 0
    fillers = len(available)
    total = 0
    for f in range(fillers):
        total += available[f] * released[f]
    if total < missing:
        return -1
    if fillers == 1:
        return int(-(-missing // released[0]) * rules.filler_duration[0])
    best = -1
    if fillers > 2:  # at the rate of the best of them
        for f in range(fillers):
            if released[f] > 0:
                time = int(missing * rules.filler_duration[f] // released[f])
                best = time if best < 0 else min(best, time)
        return best
    for n in range(available[0] + 1):
        rest = missing - n * released[0]
        more = 0
        if rest > 0:
            if released[1] == 0 or -(-rest // released[1]) > available[1]:
                continue
            more = -(-rest // released[1])
        time = int(n * rules.filler_duration[0] + more * rules.filler_duration[1])
        best = time if best < 0 else min(best, time)
    return best


def _enumerate(  # noqa: C901, PLR0912, PLR0915 - one loop, as numba needs it
    rules: StreamRules,
    first_op: Ints,
    shift: Ints,
    head: Ints,
    last: Ints,
    since: int,
    most_steps: int,
) -> tuple[bool, Ints, Numbers, Numbers, Int32s, Ints, Ints]:
    """A stream's lattice; False if it would have more than ``most_steps``.

    No steps at all if it has no path. The stream is idle before ``since``. State i's
    counts and what follows it are at ``i * width``. (Slices and the like would take
    numba seconds to compile.)
    """
    width = len(first_op)
    capacity = 1024
    keys = np.zeros(capacity, np.int64)
    early = np.zeros(capacity, np.int64)
    following = np.zeros(capacity * width, np.int32)
    count = np.zeros(capacity * width, np.int32)
    table = np.zeros(4 * capacity, np.int32)
    must = np.zeros(capacity, np.int64)
    most = np.zeros(capacity, np.int64)
    no_steps = np.zeros(0, np.uint32)
    no_times = np.zeros(0, np.int64)
    nothing = no_times, no_steps, no_steps, np.zeros(0, np.int32), no_times, no_times
    fillers = len(rules.filler_counts)
    available = np.zeros(fillers, np.int64)
    released = np.zeros(fillers, np.int64)
    made = np.zeros(width, np.int64)
    for b in range(len(rules.maker)):
        made[rules.maker[b]] += rules.size[b]
        if rules.filler_of[b] >= 0:
            released[rules.filler_of[b]] += rules.size[b]
    for k in range(len(table)):
        table[k] = -1
    table[_slot(table, keys, keys[0])] = 0
    size, steps, state = 1, 0, 0
    while state < size:
        at = state * width
        level, work, filling = 0, 0, 0
        for b in range(len(rules.maker)):
            freed = count[at + rules.maker[b]]
            for u in range(rules.first_user[b], rules.first_user[b + 1]):
                freed = min(freed, count[at + rules.users[u]])
            if rules.filler_of[b] >= 0:
                freed = 0
            level += rules.size[b] * (count[at + rules.maker[b]] - freed)
        for q in range(width):
            work += count[at + q] * rules.duration[q]
        for f in range(fillers):
            available[f] = rules.filler_counts[f]
            for q in range(width):
                if rules.filler_waits[f, q] == 1:
                    available[f] = min(available[f], count[at + q])
            filling += available[f] * rules.filler_duration[f]
        most[state] = work + filling
        must[state] = -1
        for q in range(width):
            following[at + q] = -1
            n = count[at + q]
            if n >= rules.counts[q]:
                continue
            ready = True
            for other in range(width):
                if rules.waits[q, other] == 1 and count[at + other] <= n:
                    ready = False
            if not ready:
                continue
            start = max(early[state], head[first_op[q] + n])
            if made[q] > 0:
                missing = level + made[q] - rules.room
                least = _filling(rules, available, released, missing)
                if least < 0 or (missing > 0 and fillers == 0):
                    continue
                if fillers > 0:
                    least += work
                    must[state] = least if must[state] < 0 else min(must[state], least)
                    start = max(start, since + least)
            end = start + rules.duration[q]
            if end > last[first_op[q] + n]:
                continue
            key = keys[state] + (np.int64(1) << shift[q])
            place = _slot(table, keys, key)
            after = table[place]
            if after < 0:
                if size == capacity:
                    capacity *= 2
                    more_keys = np.zeros(capacity, np.int64)
                    more_early = np.zeros(capacity, np.int64)
                    more_following = np.zeros(capacity * width, np.int32)
                    more_count = np.zeros(capacity * width, np.int32)
                    more_must = np.zeros(capacity, np.int64)
                    more_most = np.zeros(capacity, np.int64)
                    table = np.zeros(4 * capacity, np.int32)
                    for k in range(len(table)):
                        table[k] = -1
                    for k in range(size * width):
                        more_following[k] = following[k]
                        more_count[k] = count[k]
                    for known in range(size):
                        more_early[known] = early[known]
                        more_must[known] = must[known]
                        more_most[known] = most[known]
                        more_keys[known] = keys[known]
                        table[_slot(table, more_keys, keys[known])] = known
                    keys, early = more_keys, more_early
                    following, count = more_following, more_count
                    must, most = more_must, more_most
                    place = _slot(table, keys, key)
                after = size
                keys[after] = key
                early[after] = end
                for k in range(width):
                    count[after * width + k] = count[at + k]
                count[after * width + q] = n + 1
                table[place] = after
                size += 1
            elif end < early[after]:
                early[after] = end
            following[at + q] = after
            steps += 1
        must[state] = max(must[state], 0)
        if steps > most_steps:
            return False, *nothing
        state += 1
    for q in range(width):
        if count[(size - 1) * width + q] < rules.counts[q]:
            return True, *nothing
    # Keep the steps that lie on a path to the end that the windows allow.
    late = np.zeros(size, np.int64)
    late[size - 1] = 2**62
    states, steps = 1, 0
    for state in range(size - 2, -1, -1):
        late[state] = -1
        for q in range(width):
            after = following[state * width + q]
            if after < 0:
                continue
            op = first_op[q] + count[state * width + q]
            start = min(last[op], late[after]) - rules.duration[q]
            soonest = max(early[state], head[op])
            if made[q] > 0:
                soonest = max(soonest, since + must[state])
            if start >= soonest:
                late[state] = max(late[state], start)
                steps += 1
            else:
                following[state * width + q] = -1
        if late[state] >= 0:
            states += 1
    if late[0] < 0:
        return True, *nothing
    number = np.zeros(size, np.int64)
    states = 0
    for state in range(size):
        number[state] = states
        if late[state] >= 0:
            states += 1
    first_step = np.zeros(states + 1, np.int64)
    must_of = np.zeros(states if fillers > 0 else 0, np.int64)
    most_of = np.zeros(states if fillers > 0 else 0, np.int64)
    op_of = np.zeros(steps, np.uint32)
    after_of = np.zeros(steps, np.uint32)
    level_of = np.zeros(states, np.int32)
    step = 0
    for state in range(size):
        if late[state] < 0:
            continue
        if fillers > 0:
            must_of[number[state]] = must[state]
            most_of[number[state]] = most[state]
        for q in range(width):
            level_of[number[state]] += count[state * width + q]
            if following[state * width + q] >= 0:
                op_of[step] = first_op[q] + count[state * width + q]
                after_of[step] = number[following[state * width + q]]
                step += 1
        first_step[number[state] + 1] = step
    return True, first_step, op_of, after_of, level_of, must_of, most_of
