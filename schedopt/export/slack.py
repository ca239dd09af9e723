"""Slack: how much later each op of a schedule could start at no cost."""

from __future__ import annotations

from itertools import pairwise

from schedopt.errors import OrderError
from schedopt.ops import Op
from schedopt.schedule import Order, Schedule
from schedopt.simulate import with_memory_edges


def slack_of(schedule: Schedule) -> dict[Op, int]:
    """How much later each op could start with the order and the last end kept, ticks.

    The other ops may move too; every stream keeps its sequence, and where memory
    depends on times the memory edges hold. An op without slack is critical.
    """
    followers = _followers(schedule)
    waiting = dict.fromkeys(followers, 0)
    befores: dict[Op, list[tuple[Op, int]]] = {op: [] for op in followers}
    for op, afters in followers.items():
        waiting[op] = len(afters)
        for after, lag in afters:
            befores[after].append((op, lag))
    last = max(map(schedule.end, followers), default=0)
    latest_end = dict.fromkeys(followers, last)
    ready = [op for op, count in waiting.items() if count == 0]
    while ready:
        after = ready.pop()
        latest_start = latest_end[after] - schedule.graph.data[after].duration
        for op, lag in befores[after]:
            latest_end[op] = min(latest_end[op], latest_start - lag)
            waiting[op] -= 1
            if waiting[op] == 0:
                ready.append(op)
    return {op: latest_end[op] - schedule.end(op) for op in followers}


def _followers(schedule: Schedule) -> dict[Op, list[tuple[Op, int]]]:
    """What waits for each present op, and by how much."""
    order = _order(schedule)
    found = {
        op: [
            (a, lag) for a, lag in schedule.graph.successors(op) if a in schedule.start
        ]
        for op in schedule.start
    }
    for sequence in order.sequences.values():
        for before, after in pairwise(sequence):
            found[before].append((after, 0))
    for before, after in order.memory_edges:
        found[before].append((after, 0))
    return found


def _order(schedule: Schedule) -> Order:
    try:
        return with_memory_edges(schedule)
    except OrderError:  # a schedule that exceeds a limit has none
        return schedule.order
