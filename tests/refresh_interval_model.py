"""A refresh as intervals on its op graph: a second opinion for the counts of a packing.

It shares nothing with ``schedopt.cpsat.packing`` but the op graph, the frame and its
gaps: one start per op of the first refresh, the same a cycle later for the second one,
streams without overlap, precedences, and memory as a cumulative over buffers.
"""

from __future__ import annotations

from typing import NamedTuple

from ortools.sat.python import cp_model

from schedopt.build import build_graph
from schedopt.opgraph import OpGraph
from schedopt.ops import Op, OpKind
from schedopt.refresh.frame import Frame, with_interval


class Truth(NamedTuple):
    """Whether there is a packing, and the least peak that one has; None: not known."""

    exists: bool | None
    peak: int | None = None


def truth(
    frame: Frame,
    interval: int,
    latest: int,
    *,
    wrap: bool,
    limit: int | None = None,
    minimise_memory: bool = False,
    seconds: float = 20,
) -> Truth:
    """What holds for an interval and the last step of a first use.

    Without ``limit`` (of every device, grains) memory does not matter.
    """
    model = _Intervals(frame, interval, latest, wrap=wrap)
    if not model.may_exist:
        return Truth(False)
    model.streams_run_one_op_at_a_time()
    model.ops_wait_for_what_they_need()
    if limit is not None:
        model.memory_is_at_most(limit)
    if minimise_memory:
        peak = model.model.new_int_var(0, 10**9, "")
        model.memory_is_at_most(peak)
        model.model.minimize(peak)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 1
    status = solver.solve(model.model)
    if status == cp_model.INFEASIBLE:
        return Truth(False)
    if status == cp_model.OPTIMAL:
        return Truth(True, solver.value(peak) if minimise_memory else None)
    return Truth(None if minimise_memory or status == cp_model.UNKNOWN else True)


class _Intervals:
    def __init__(self, frame: Frame, interval: int, latest: int, *, wrap: bool) -> None:
        self.frame = frame
        self.cycle = interval * frame.period
        self.model = cp_model.CpModel()
        self.may_exist = True
        steps = interval * (2 if wrap else 1)
        self.graph: OpGraph = build_graph(
            with_interval(
                frame.instance,
                interval=interval,
                refreshes=2,
                steps=interval * (3 if wrap else 2),
            )
        )
        self.horizon = (steps + 1) * frame.period + self.cycle + 10**9
        self.start: dict[Op, cp_model.LinearExprT] = {}
        self.here: dict[str, cp_model.IntVar] = {}
        for op, data in self.graph.data.items():
            base = op._replace(step=0)
            if base in frame.start:
                self.start[op] = frame.start[base] + op.step * frame.period
            elif op.step == 0:
                self.start[op] = self._start(op, steps, latest)
                if data.literal:
                    self.here[data.literal] = self.model.new_bool_var("")
            else:
                self.start[op] = self.start[base] + self.cycle
                if data.literal:
                    first = self.graph.data[base].literal
                    self.here[data.literal] = self.here[first or ""]
        for choice in self.graph.choices:
            self.model.add_exactly_one(self.here[name] for name in choice.literals)

    def _start(self, op: Op, steps: int, latest: int) -> cp_model.IntVar:
        """From the first gap of step 0 to the last one of the last step."""
        data, frame = self.graph.data[op], self.frame
        first, last = 0, self.horizon
        if op.kind.is_compute:
            gaps = frame.gaps[data.device]
            first = gaps[0].begin if gaps else 0
            last = (steps - 1) * frame.period + gaps[-1].end if gaps else -1
            if gaps and gaps[0].begin == 0 and not frame.ends_together:
                last = steps * frame.period + gaps[0].end  # it follows the last step
        if op.kind is OpKind.INVERSION:
            use = frame.start[Op(OpKind.PRECONDITION, op.stage, op.microbatch)]
            last = min(last, use + latest * frame.period)
        last -= data.duration
        if last < first:
            self.may_exist = self.may_exist and data.literal is not None
            start = self.model.new_int_var(first, first, "")
            if data.literal:
                self.model.add(start < first).only_enforce_if(self._here(op))
            return start
        return self.model.new_int_var(first, last, "")

    def _here(self, op: Op) -> list[cp_model.IntVar]:
        literal = self.graph.data[op].literal
        if literal is None:
            return []
        return [self.here.setdefault(literal, self.model.new_bool_var(""))]

    def _end(self, op: Op) -> cp_model.LinearExprT:
        return self.start[op] + self.graph.data[op].duration

    def streams_run_one_op_at_a_time(self) -> None:
        for ops in self.graph.streams.values():
            spans = []
            for op in ops:
                span = (self.start[op], self.graph.data[op].duration, self._end(op))
                if here := self._here(op):
                    spans.append(
                        self.model.new_optional_interval_var(*span, here[0], "")
                    )
                else:
                    spans.append(self.model.new_interval_var(*span, ""))
            self.model.add_no_overlap(spans)

    def ops_wait_for_what_they_need(self) -> None:
        for before, after, lag in self.graph.edges:
            if before._replace(step=0) in self.frame.start and (
                after._replace(step=0) in self.frame.start
            ):
                continue
            waits = self.model.add(self.start[after] >= self._end(before) + lag)
            waits.only_enforce_if([*self._here(before), *self._here(after)])

    def memory_is_at_most(self, most: cp_model.LinearExprT) -> None:
        for number, device in enumerate(self.graph.devices):
            spans, sizes = [], []
            for buffer in self.graph.buffers:
                if buffer.device != number:
                    continue
                ends = [self._end(user) for user in buffer.users or (buffer.maker,)]
                end = self.model.new_int_var(0, 4 * self.horizon, "")
                size = self.model.new_int_var(0, 4 * self.horizon, "")
                self.model.add_max_equality(end, ends)
                begin = self.start[buffer.maker]
                spans.append(self.model.new_interval_var(begin, size, end, ""))
                sizes.append(buffer.size)
            self.model.add_cumulative(spans, sizes, most - device.static)
