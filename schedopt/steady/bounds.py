"""Bounds on the period, for every schedule; proofs in docs/bounds.md.

They hold in the long run, periodic or not: n microbatches take at least n times as
long. Rounded up to whole ticks, as periods are.
"""

from __future__ import annotations

from collections.abc import Iterator

from schedopt.opgraph import OpGraph
from schedopt.steady.problem import CycleProblem, cycle_problem
from schedopt.structure import ClassBuffer

MOST_STEPS = 64
"""Steps to which sizes are rounded, at most (``_rounded_sizes``)."""


def stream_load(graph: OpGraph) -> int:
    """The most loaded stream's work per microbatch; 0 without a steady state."""
    problem = cycle_problem(graph)
    if problem is None:
        return 0
    loads = (
        sum(problem.ops[number].duration for number in numbers)
        for numbers in problem.streams.values()
    )
    return _per_microbatch(problem, max(loads, default=0))


def memory_throughput(graph: OpGraph) -> int:
    """Size times least lifetime over room, per microbatch; 0 without a steady state."""
    problem = cycle_problem(graph)
    if problem is None:
        return 0
    bound = 0
    for device, buffers in problem.limited_buffers.items():
        room = problem.rooms[device]
        assert room is not None, "limited_buffers has limited devices only"
        if room <= 0:
            continue  # no schedule at all; nothing is divided by
        lifetimes = [least_lifetime(problem, buffer) for buffer in buffers]
        for sizes, whole in _measures([buffer.size for buffer in buffers], room):
            held = sum(s * life for s, life in zip(sizes, lifetimes, strict=True))
            bound = max(bound, -(-held // whole))
    return _per_microbatch(problem, bound)


def least_lifetime(problem: CycleProblem, buffer: ClassBuffer) -> int:
    """Least ticks from the maker's start to the last user's end, by precedences."""
    after = problem.longest_paths(buffer.maker)
    return max(
        (
            after[user] + problem.ops[user].duration
            for user in buffer.users
            if user in after
        ),
        default=0,
    )


def _measures(sizes: list[int], room: int) -> Iterator[tuple[list[int], int]]:
    """Sizes and a room such that what fits by sizes fits by these, too.

    The sizes themselves, and rounded: of sizes s that add up to at most the room, the
    ceil((k + 1) s / room) - 1 add up to at most k, being whole numbers below a sum of
    at most k + 1.
    """
    yield sizes, room
    for k in range(1, MOST_STEPS + 1):
        yield [-(-(k + 1) * size // room) - 1 for size in sizes], k


def _per_microbatch(problem: CycleProblem, ticks: int) -> int:
    return -(-ticks // problem.microbatches)
