"""The K-FAC builder: curvature, inversion and preconditioning around a pipeline's work.

Osawa, Li and Hoefler, "PipeFisher: Efficient Training of Large Language Models Using
Pipelining and Fisher Information Matrices" (MLSys 2023), as in the authors' code
(kazukiosawa/pipe-fisher, ``auto_schedule.py``). A refresh takes the data of one step:

* every microbatch adds its share to factor A of every layer after the forward (after
  the recomputation, where the stage is recomputed), and to factor B after the backward;
* copies of a stage reduce their factors (``SYNC_CURVATURE``);
* every factor is inverted once its shares are complete.

Every step preconditions the gradients of each stage, with whatever inverses there are,
before the optimizer's step; copies reduce the gradients before (each keeps its share)
and gather the result after. So nothing of a step waits for an inversion, and the ops of
a refresh carry the step of its data, whenever they run. A factor is written again for
the next refresh only after it has been inverted.

Inputs and output gradients wait for their curvature. Factors and inverses are held at
all times, in static memory: an inverse is in use until the next one takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

from schedopt.build.draft import Draft
from schedopt.build.pipeline import activation_name
from schedopt.build.quantities import (
    bytes_of_memory_units,
    grains,
    in_time_units,
    ticks,
)
from schedopt.build.steps import Copy, StepOps, Waits, copies, name_in_step
from schedopt.instance import (
    FactorBarrier,
    Instance,
    Inversion,
    Kfac,
    KfacModule,
    Number,
    StepBarrier,
    exact,
)
from schedopt.opgraph import Buffer, Choice, OpData, Stream, StreamKind
from schedopt.ops import Op, OpKind

_BACKWARDS = (OpKind.BACKWARD, OpKind.BACKWARD_INPUT, OpKind.OVERLAP)
_LAST = (OpKind.BACKWARD, OpKind.BACKWARD_WEIGHT, OpKind.OVERLAP)


class Factor(NamedTuple):
    """One side of one layer of a stage."""

    stage: int
    layer: str
    side: str
    module: KfacModule

    @property
    def curvature(self) -> Number:
        """Duration of a microbatch's share."""
        module = self.module
        return module.curvature_a if self.side == "A" else module.curvature_b

    @property
    def inversion(self) -> Number:
        """Duration of the inversion."""
        module = self.module
        return module.inversion_a if self.side == "A" else module.inversion_b

    @property
    def size(self) -> Number:
        """Memory of the factor."""
        return self.module.factor_a if self.side == "A" else self.module.factor_b

    @property
    def saved(self) -> Number:
        """Memory of what waits for a microbatch's share."""
        module = self.module
        return module.saved_input if self.side == "A" else module.saved_gradient

    def share(self, microbatch: int, step: int) -> Op:
        """A microbatch's share of the curvature."""
        kind = OpKind.CURVATURE_A if self.side == "A" else OpKind.CURVATURE_B
        return Op(kind, self.stage, microbatch, step, self.layer)

    def inversion_op(self, copy: int, step: int) -> Op:
        """The inversion on a copy of the stage."""
        part = f"{self.layer}.{self.side}"
        return Op(OpKind.INVERSION, self.stage, copy, step, part)

    def sync_op(self, step: int) -> Op:
        """The reduction of the factor over the stage's copies."""
        part = f"{self.layer}.{self.side}"
        return Op(OpKind.SYNC_CURVATURE, self.stage, 0, step, part)


def factors_of(instance: Instance, stage: int) -> Iterator[Factor]:
    """Both factors of every layer of a stage."""
    for module in instance.stages[stage].modules:
        for layer in module.layers:
            for side in "AB":
                yield Factor(stage, layer, side, module)


def add_kfac(draft: Draft, ops: StepOps, instance: Instance, kfac: Kfac) -> Waits:
    """Add all second-order work; what the optimizer's steps then wait for."""
    builder = _Builder(draft, ops, instance, kfac)
    builder.hold_factors()
    for refresh in range(kfac.refreshes):
        builder.refresh(refresh * kfac.interval)
    draft.buffers = [buffer for buffer in draft.buffers if buffer.size]
    return {
        (step, copy): (builder.preconditioned(step, copy),)
        for step in range(instance.steps)
        for copy in copies(instance)
    }


class _Builder:
    def __init__(
        self, draft: Draft, ops: StepOps, instance: Instance, kfac: Kfac
    ) -> None:
        self.draft = draft
        self.ops = ops
        self.instance = instance
        self.kfac = kfac
        self.factors = [
            tuple(factors_of(instance, stage)) for stage in range(len(instance.stages))
        ]
        self.of_microbatch: dict[tuple[int, int, int], list[Op]] = {}
        for op in draft.digraph:
            for stage, microbatch in _work_of(op):
                key = (op.step, stage, microbatch)
                self.of_microbatch.setdefault(key, []).append(op)
        self.buffers_named: dict[str, list[int]] = {}
        for index, buffer in enumerate(draft.buffers):
            self.buffers_named.setdefault(buffer.name, []).append(index)

    # -- memory ---------------------------------------------------------------

    def hold_factors(self) -> None:
        """Factors and inverses are static memory of every device with a copy."""
        devices = list(self.draft.devices)
        for copy in copies(self.instance):
            size = sum(2 * self._grains(f.size) for f in self.factors[copy.stage])
            memory = devices[copy.device]
            devices[copy.device] = memory._replace(static=memory.static + size)
        self.draft.devices = tuple(devices)

    # -- a refresh ------------------------------------------------------------

    def refresh(self, step: int) -> None:
        """The curvature and the inversions of the data of one step."""
        for stage in range(len(self.instance.stages)):
            sized = [
                (factor, exact(factor.curvature), self._grains(factor.saved))
                for factor in self.factors[stage]
            ]
            for microbatch in range(self.instance.microbatches):
                self._curvature(step, stage, microbatch, sized)
        for add in (self._reduction, self._inversion):
            for factors in self.factors:
                for factor in factors:
                    add(step, factor)
        if step:
            self._after_refresh(step - self.kfac.interval, step)

    def _curvature(
        self,
        step: int,
        stage: int,
        microbatch: int,
        sized: Sequence[tuple[Factor, Fraction, int]],
    ) -> None:
        """Every factor's share of a microbatch, and what waits for it in memory.

        With each factor come its curvature's time and the grains of what it saves.
        """
        work = self.of_microbatch[step, stage, microbatch]
        recomputed = stage in self.instance.recompute
        first_kinds = (
            (OpKind.RECOMPUTE,) if recomputed else (OpKind.FORWARD, OpKind.OVERLAP)
        )
        inputs = [op for op in work if _plays(op, first_kinds, stage, microbatch)]
        outputs = [op for op in work if _plays(op, _BACKWARDS, stage, microbatch)]
        last = [op for op in work if _plays(op, _LAST, stage, microbatch)]
        device = self.instance.device_of(stage, microbatch)
        scales = self.instance.microbatch_scale
        scale = exact(scales[microbatch]) if scales else Fraction(1)
        kept = 0
        for factor, time, size in sized:
            share = factor.share(microbatch, step)
            self._compute(share, time * scale, device)
            is_input = factor.side == "A"
            makers = inputs if is_input else outputs
            self.draft.edges(makers, (share,))
            if size == 0:
                continue
            users = (*last, share) if is_input else (share,)
            kept += size if is_input else 0
            name = f"{'input' if is_input else 'output gradient'} of {share}"
            self.draft.buffers += [
                Buffer(name, device, size, maker, users) for maker in makers
            ]
        name = name_in_step(activation_name(stage, microbatch), step)
        for index in self.buffers_named.get(name, ()):
            buffer = self.draft.buffers[index]
            # Inputs are rounded each by itself: a grain more together, perhaps.
            left = max(0, buffer.size - kept)
            self.draft.buffers[index] = buffer._replace(size=left)

    def _reduction(self, step: int, factor: Factor) -> None:
        """The reduction of a factor over the copies of its stage, if there are some."""
        if self._copies(factor.stage) == 1:
            return
        here = [copy for copy in copies(self.instance) if copy.stage == factor.stage]
        sync = factor.sync_op(step)
        self.draft.add(sync, self._collective(sync, here, *self._sync_time(factor)))
        self.draft.edges(self._shares(step, factor), (sync,))
        if self.kfac.factor_barrier is FactorBarrier.DEVICE:
            for copy in here:
                for other in self._beside(factor, copy.device):
                    self.draft.edges(self._shares(step, other), (sync,))

    def _inversion(self, step: int, factor: Factor) -> None:
        """A factor's inversion, on one copy of the stage or on all of them."""
        instance, kfac = self.instance, self.kfac
        here = [copy for copy in copies(instance) if copy.stage == factor.stage]
        duration = exact(factor.inversion) / kfac.replicas
        whole = kfac.inversion is Inversion.WHOLE and len(here) > 1
        if not whole:
            duration /= len(here)
        literals = []
        for copy in here:
            op = factor.inversion_op(copy.number, step)
            literals.append(f"{op} here" if whole else None)
            self._compute(op, duration, copy.device, literals[-1])
            self.draft.edges(self._complete(step, factor), (op,))
            if kfac.factor_barrier is FactorBarrier.DEVICE:
                for other in self._beside(factor, copy.device):
                    self.draft.edges(self._complete(step, other), (op,))
        if whole:
            named = tuple(literal for literal in literals if literal)
            name = f"owner of {factor.sync_op(step)}"
            self.draft.choices.append(Choice(name, named))

    def _shares(self, step: int, factor: Factor) -> list[Op]:
        return [factor.share(j, step) for j in range(self.instance.microbatches)]

    def _complete(self, step: int, factor: Factor) -> list[Op]:
        """What a factor is complete after."""
        if self._copies(factor.stage) > 1:
            return [factor.sync_op(step)]
        return self._shares(step, factor)

    def _beside(self, factor: Factor, device: int) -> Iterator[Factor]:
        """The factors of the same side on a device; PipeFisher waits for them all."""
        for stage in self.instance.stages_of(device):
            for other in self.factors[stage]:
                if other.side == factor.side:
                    yield other

    def _after_refresh(self, previous: int, step: int) -> None:
        """A factor is not written before what was in it has been used."""
        for stage, factors in enumerate(self.factors):
            copies_here = [
                copy for copy in copies(self.instance) if copy.stage == stage
            ]
            for factor in factors:
                for copy in copies_here:
                    used = [factor.inversion_op(copy.number, previous)]
                    if self._copies(stage) > 1:
                        used.append(factor.sync_op(previous))
                    shares = [
                        share
                        for share in self._shares(step, factor)
                        if self.draft.data(share).device == copy.device
                    ]
                    self.draft.edges(used, shares)

    # -- the end of a step ----------------------------------------------------

    def preconditioned(self, step: int, copy: Copy) -> Op:
        """What makes a copy's gradients ready for the optimizer in a step."""
        instance, kfac = self.instance, self.kfac
        stages: Sequence[int] = (copy.stage,)
        if kfac.step_barrier is StepBarrier.EVERYONE:
            stages = range(len(instance.stages))
        before = [self._gradients(step, stage) for stage in stages]
        count = self._copies(copy.stage)
        op = Op(OpKind.PRECONDITION, copy.stage, copy.number, step)
        duration = exact(instance.stages[copy.stage].precondition) / count
        self._compute(op, duration, copy.device)
        for ops in before:
            self.draft.edges(ops, (op,))
        if count == 1:
            return op
        gather = Op(OpKind.GATHER_GRAD, copy.stage, 0, step)
        if gather not in self.draft.digraph:
            self.draft.add(gather, self._gradient_collective(gather))
        self.draft.edges((op,), (gather,))
        return gather

    def _gradients(self, step: int, stage: int) -> Sequence[Op]:
        """What a stage's gradients are complete after: reduced, if there are copies."""
        makers = self.ops.gradients(step, self.instance, stage)
        if self._copies(stage) == 1:
            return makers
        reduce = Op(OpKind.REDUCE_GRAD, stage, 0, step)
        if reduce not in self.draft.digraph:
            self.draft.add(reduce, self._gradient_collective(reduce))
            self.draft.edges(makers, (reduce,))
        return (reduce,)

    # -- collectives ----------------------------------------------------------

    def _copies(self, stage: int) -> int:
        """How many devices in all hold the stage's weights."""
        return len(self.instance.copies_of(stage)) * self.kfac.replicas

    def _gradient_collective(self, op: Op) -> OpData:
        here = [copy for copy in copies(self.instance) if copy.stage == op.stage]
        size = exact(self.instance.stages[op.stage].gradient_bytes)
        return self._collective(op, here, size, 1)

    def _sync_time(self, factor: Factor) -> tuple[Fraction, int]:
        """Bytes of a factor, and how often they go round: once to a single owner."""
        whole = self.kfac.inversion is Inversion.WHOLE
        size = bytes_of_memory_units(factor.size, self.draft.units)
        return size, 1 if whole and self.kfac.replicas == 1 else 2

    def _collective(
        self, op: Op, here: Sequence[Copy], size: Fraction, rounds: int
    ) -> OpData:
        """An op on the collective streams of all devices that hold the stage."""
        count = self._copies(op.stage)
        time = exact(self.kfac.latency)
        if self.kfac.bandwidth is not None:
            moved = size * rounds * (count - 1) / count
            time += in_time_units(moved / exact(self.kfac.bandwidth), self.draft.units)
        streams = tuple(Stream(StreamKind.COLLECTIVE, copy.device) for copy in here)
        return OpData(ticks(time, self.draft.units), here[0].device, streams)

    # -- integers -------------------------------------------------------------

    def _compute(
        self, op: Op, duration: Fraction, device: int, literal: str | None = None
    ) -> None:
        speed = exact(self.instance.devices[device].speed)
        self.draft.compute(op, duration / speed, device, literal)

    def _grains(self, size: Number) -> int:
        return grains(size, self.draft.units)


def _work_of(op: Op) -> Iterator[tuple[int, int]]:
    """The (stage, microbatch) of which an op does a part; a joint op's two."""
    yield op.stage, op.microbatch
    if op.kind is OpKind.OVERLAP:
        backward = Op.parse(op.part)
        yield backward.stage, backward.microbatch


def _plays(op: Op, kinds: Sequence[OpKind], stage: int, microbatch: int) -> bool:
    """Whether an op is a forward, or a backward, of a stage's microbatch."""
    if op.kind not in kinds:
        return False
    if op.kind is not OpKind.OVERLAP:
        return True
    is_forward = (op.stage, op.microbatch) == (stage, microbatch)
    return is_forward == (OpKind.FORWARD in kinds)
