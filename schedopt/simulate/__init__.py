"""Orders become schedules: exact replay, completion of orders, and memory edges.

Nothing here chooses well; it computes what an order implies, or says why nothing does.
"""

from schedopt.callable_package import make_callable
from schedopt.simulate.dispatch import dispatch
from schedopt.simulate.memory import with_memory_edges
from schedopt.simulate.replay import simulate, tails
from schedopt.simulate.spans import best_times, with_least_spans

__all__ = [
    "best_times",
    "dispatch",
    "simulate",
    "tails",
    "with_least_spans",
    "with_memory_edges",
]

make_callable(__name__, simulate)  # schedopt.simulate(graph, order)
