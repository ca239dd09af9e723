"""The shortest cycle of a training, as intervals: a second opinion for the front.

It shares nothing with ``schedopt.solve.refresh_front`` and its bounds but the op graph:
one start per op of a cycle (all its steps, and a refresh), the same a cycle later for
the next one, streams without overlap, precedences; the cycle's length is minimised.
Steps need not be equally long, and the pipeline's ops run at any times in any order.

The rules of the settings are stated anew: a device runs a step's ops before those of
the next step, and all of a cycle's work before the next cycle's first op. Where all
devices end a step together, each runs what ends it from one common moment on, and no
work after it in the cycle's last step.
"""

from __future__ import annotations

from typing import NamedTuple

from ortools.sat.python import cp_model

from schedopt.build import build_graph
from schedopt.instance import StepBarrier
from schedopt.ops import Op, OpKind
from schedopt.refresh.frame import END_OF_STEP, Frame, with_interval


class Shortest(NamedTuple):
    """The length of the shortest cycle, ticks, and what none is below."""

    length: int | None
    bound: int


def shortest_cycle(frame: Frame, interval: int, seconds: float = 10) -> Shortest:
    """Of the frame matter its instance, and how devices end a step together."""
    model = _Cycle(frame, interval)
    model.streams_run_one_op_at_a_time()
    model.ops_wait_for_what_they_need()
    model.steps_and_cycles_do_not_mix()
    kfac = frame.instance.kfac
    assert kfac is not None
    if kfac.step_barrier is StepBarrier.EVERYONE:
        model.devices_end_steps_together()
    model.model.minimize(model.length)
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = 1
    status = solver.solve(model.model)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    bound = round(solver.best_objective_bound) if found else 0
    return Shortest(solver.value(model.length) if found else None, bound)


class _Cycle:
    def __init__(self, frame: Frame, interval: int) -> None:
        self.frame = frame
        self.interval = interval
        self.model = cp_model.CpModel()
        self.graph = build_graph(
            with_interval(
                frame.instance, interval=interval, refreshes=2, steps=2 * interval
            )
        )
        data = self.graph.data
        work = sum(d.duration for op, d in data.items() if op.step < interval)
        lags = sum(max(lag, 0) for _, _, lag in self.graph.edges)
        self.horizon = work + lags + 1
        self.length = self.model.new_int_var(0, self.horizon, "")
        # Ops of the first cycle; a later one's start that much later.
        self.start = {
            op: self.model.new_int_var(0, 2 * self.horizon, str(op))
            for op in data
            if op.step < interval
        }
        self.here: dict[str, cp_model.IntVar] = {}
        for choice in self.graph.choices:
            names = [
                name
                for name in choice.literals
                if any(data[op].literal == name for op in self.start)
            ]
            for name in names:
                self.here[name] = self.model.new_bool_var(name)
            if names:
                self.model.add_exactly_one(self.here[name] for name in names)

    def _time(self, op: Op) -> cp_model.LinearExprT:
        """When an op of any cycle starts."""
        base = op._replace(step=op.step % self.interval)
        return self.start[base] + op.step // self.interval * self.length

    def _end(self, op: Op) -> cp_model.LinearExprT:
        return self._time(op) + self.graph.data[op].duration

    def _literals(self, *ops: Op) -> list[cp_model.IntVar]:
        bases = [op._replace(step=op.step % self.interval) for op in ops]
        names = [self.graph.data[base].literal for base in bases]
        return [self.here[name] for name in names if name is not None]

    def streams_run_one_op_at_a_time(self) -> None:
        for ops in self.graph.streams.values():
            spans = []
            for op in ops:
                if op.step >= self.interval:
                    continue
                span = (self.start[op], self.graph.data[op].duration, self._end(op))
                if here := self._literals(op):
                    spans.append(
                        self.model.new_optional_interval_var(*span, here[0], "")
                    )
                else:
                    spans.append(self.model.new_interval_var(*span, ""))
            self.model.add_no_overlap(spans)

    def ops_wait_for_what_they_need(self) -> None:
        for before, after, lag in self.graph.edges:
            waits = self.model.add(self._time(after) >= self._end(before) + lag)
            waits.only_enforce_if(self._literals(before, after))

    def steps_and_cycles_do_not_mix(self) -> None:
        for device in range(len(self.graph.devices)):
            mine = [op for op in self.start if self._is_on(op, device)]
            frame = [op for op in mine if not _is_work(op)]
            for step in range(self.interval):
                moment = self.model.new_int_var(0, 2 * self.horizon, "")
                for op in frame:
                    if op.step <= step:
                        self.model.add(self._end(op) <= moment)
                    else:
                        self.model.add(self.start[op] >= moment)
            first = self.model.new_int_var(0, 2 * self.horizon, "")
            for op in mine:
                self.model.add(self.start[op] >= first)
                ends = self.model.add(self._end(op) <= first + self.length)
                ends.only_enforce_if(self._literals(op))

    def devices_end_steps_together(self) -> None:
        last = self.interval - 1
        for step in range(self.interval):
            moment = self.model.new_int_var(0, 2 * self.horizon, "")
            for device in range(len(self.graph.devices)):
                ends = [
                    op
                    for op in self.start
                    if op.step == step
                    and op.kind in END_OF_STEP
                    and self._is_on(op, device)
                ]
                takes = self._end_of_step(device)
                for op in ends:
                    self.model.add(self.start[op] >= moment)
                    self.model.add(self._end(op) <= moment + takes)
                for op in self.start:
                    if step == last and _is_work(op) and self._is_on(op, device):
                        over = self.model.add(self._end(op) <= moment + takes)
                        over.only_enforce_if(self._literals(op))
            for op in self.start:
                is_pipeline = not _is_work(op) and op.kind not in END_OF_STEP
                if op.step == step and is_pipeline:
                    self.model.add(self._end(op) <= moment)

    def _end_of_step(self, device: int) -> int:
        """How long after the pipeline a device has ended its step, ticks."""
        return max(
            self.frame.end(op) - self.frame.pipeline_end
            for op in self.frame.start
            if op.kind in END_OF_STEP and self._is_on(op, device)
        )

    def _is_on(self, op: Op, device: int) -> bool:
        return op.kind.is_compute and self.graph.data[op].device == device


def _is_work(op: Op) -> bool:
    return op.kind in (OpKind.CURVATURE_A, OpKind.CURVATURE_B, OpKind.INVERSION)
