"""The steps builder: a pipeline's work in several training steps.

Every step has the pipeline's ops, choices and buffers of its own. An op ``STEP`` per
stage, and per device that holds a copy of it, ends the step: the forwards of the next
step on that device wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from schedopt.build.draft import Draft
from schedopt.instance import Instance, exact
from schedopt.opgraph import Choice, OpGraph
from schedopt.ops import Op, OpKind

_FORWARDS = (OpKind.FORWARD, OpKind.OVERLAP)
_GRADIENT_MAKERS = (OpKind.BACKWARD, OpKind.BACKWARD_WEIGHT, OpKind.OVERLAP)


class Copy(NamedTuple):
    """One device's copy of a stage: number 1 is the way up of a two-way pipeline."""

    stage: int
    number: int
    device: int


def copies(instance: Instance) -> Iterator[Copy]:
    """Every copy of every stage."""
    for stage in range(len(instance.stages)):
        for number, device in enumerate(instance.copies_of(stage)):
            yield Copy(stage, number, device)


def unrolled(pipeline: OpGraph, steps: int) -> Draft:
    """The pipeline's work once per step; nothing waits across steps yet."""
    draft = Draft(pipeline.devices, pipeline.units)
    for step in range(steps):
        here = {op: op._replace(step=step) for op in pipeline.data}
        for op, data in pipeline.data.items():
            literal = data.literal and name_in_step(data.literal, step)
            draft.add(here[op], data._replace(literal=literal))
        for before, after, lag in pipeline.edges:
            draft.edges((here[before],), (here[after],), lag)
        draft.buffers += [
            buffer._replace(
                name=name_in_step(buffer.name, step),
                maker=here[buffer.maker],
                users=tuple(here[user] for user in buffer.users),
            )
            for buffer in pipeline.buffers
        ]
        draft.choices += [
            Choice(
                name_in_step(choice.name, step),
                tuple(name_in_step(literal, step) for literal in choice.literals),
            )
            for choice in pipeline.choices
        ]
    return draft


def name_in_step(name: str, step: int) -> str:
    """A name as it reads in a step; that of step 0 is the pipeline's own."""
    return f"{step}@{name}" if step else name


class StepOps:
    """What begins and what completes the work of a stage on a device in a step.

    ``forwards`` are the ops that use the stage's weights first, ``gradients`` those
    that make its gradients; both by (step, stage, device).
    """

    def __init__(self, draft: Draft) -> None:
        self._forwards: dict[tuple[int, int, int], list[Op]] = {}
        self._gradients: dict[tuple[int, int, int], list[Op]] = {}
        for op in draft.digraph:
            device = draft.data(op).device
            if op.kind in _FORWARDS:
                self._forwards.setdefault((op.step, op.stage, device), []).append(op)
            if op.kind in _GRADIENT_MAKERS:
                stage = (
                    Op.parse(op.part).stage if op.kind is OpKind.OVERLAP else op.stage
                )
                self._gradients.setdefault((op.step, stage, device), []).append(op)

    def forwards(self, step: int, copy: Copy) -> Sequence[Op]:
        """The forwards of a copy in a step, alternatives included."""
        return self._forwards.get((step, copy.stage, copy.device), ())

    def gradients(self, step: int, instance: Instance, stage: int) -> Sequence[Op]:
        """What makes a stage's gradients in a step, on all devices that hold it."""
        return [
            op
            for device in instance.copies_of(stage)
            for op in self._gradients.get((step, stage, device), ())
        ]


Waits = Mapping[tuple[int, Copy], Sequence[Op]]
"""For each step and copy what the optimizer's step waits for."""


def gradients_of_steps(ops: StepOps, instance: Instance) -> Waits:
    """The optimizer's step waits for the stage's gradients and nothing else."""
    return {
        (step, copy): ops.gradients(step, instance, copy.stage)
        for step in range(instance.steps)
        for copy in copies(instance)
    }


def end_steps(draft: Draft, ops: StepOps, instance: Instance, waits: Waits) -> None:
    """Add the optimizer's steps; the next forwards of a stage wait for them."""
    for (step, copy), before in waits.items():
        op = Op(OpKind.STEP, copy.stage, copy.number, step)
        cost = exact(instance.stages[copy.stage].optimizer_step)
        speed = exact(instance.devices[copy.device].speed)
        draft.compute(op, cost / speed, copy.device)
        draft.edges(before, (op,))
        draft.edges((op,), ops.forwards(step + 1, copy))
