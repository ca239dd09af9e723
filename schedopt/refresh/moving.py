"""What a cycle must keep, whatever moves in it.

In the setting ``sliding`` the pipeline's ops of a device keep their order and may start
at other times in every step of the cycle; in ``reordered`` their order may be another
one, too. No step is longer than the frame's: the pipeline's ops of each lie within its
``pipeline_end``. The ops that end a step follow as early, or as late, as their own
precedences allow.
"""

from __future__ import annotations

from collections.abc import Iterator

from schedopt.refresh.cycle import Cycle
from schedopt.refresh.frame import END_OF_STEP
from schedopt.verify import Rule


def faults_of(cycle: Cycle, *, may_be_longer: bool = False) -> tuple[str, ...]:
    """Every way in which a cycle breaks a rule or makes a step longer; best none.

    Single steps ``may_be_longer`` than the frame's, if the others are shorter. Memory
    is left to ``breaks_memory``: nothing that moves is packed with its limits.
    """
    found = [each.detail for each in cycle.broken if each.rule is not Rule.MEMORY]
    frame = cycle.frame
    for step, start in enumerate(cycle.steps):
        for op, time in start.items():
            end = time + frame.graph.data[op].duration
            is_pipeline = op.kind not in END_OF_STEP
            is_late = is_pipeline and end > frame.pipeline_end and not may_be_longer
            if time < 0 or is_late:
                found.append(f"{op} of step {step} runs from {time} to {end} ticks")
    if not cycle.wrap:
        found += _crossings(cycle)
    return tuple(found)


def breaks_memory(cycle: Cycle) -> bool:
    """Whether the verifier finds that some device's memory limit is exceeded."""
    return any(each.rule is Rule.MEMORY for each in cycle.broken)


def _crossings(cycle: Cycle) -> Iterator[str]:
    """Work that runs after its device has begun the next cycle."""
    frame = cycle.frame
    data = frame.with_refresh.data
    for op, time in cycle.start.items():
        first = min(
            (
                start
                for other, start in cycle.steps[0].items()
                if other.kind.is_compute
                and frame.graph.data[other].device == data[op].device
            ),
            default=0,
        )
        if time + data[op].duration > cycle.length + first:
            yield f"{op} ends after the cycle, at {time + data[op].duration} ticks"
