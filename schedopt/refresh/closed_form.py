"""PipeFisher's analytic model of a training step with K-FAC work in its bubbles.

Osawa, Li and Hoefler, "PipeFisher: Efficient Training of Large Language Models Using
Pipelining and Fisher Information Matrices" (MLSys 2023), as in the authors' code,
kazukiosawa/pipe-fisher: ``scripts/plot_perf_model.py`` for as many microbatches as
devices, and memory; ``scripts/plot_throughput2.py`` for more, and throughput.

The model is of equal stages, one per device, with whole backwards: N microbatches per
step on D devices, per stage F and B (R + B where it recomputes), T_curv for the
curvature of a microbatch (both factors of all layers), T_inv for all inversions and
T_prec for preconditioning. It is of computation alone: transfers are refused, and
collectives left out. Recomputation is a part of the backward, so it waits for the
gradient; an op ``R`` does not, and a schedule with them may take less than T_pipe.
Everything is a ``Fraction`` in the units of the instance, not rounded to ticks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from schedopt.errors import NotApplicableError
from schedopt.instance import Backward, Instance, Placement, StageCost, exact


@dataclass(frozen=True, slots=True, kw_only=True)
class StageWork:
    """What the model knows of one stage, in the units of the instance.

    Attributes
    ----------
    forward, backward, curvature : Fraction
        Durations per microbatch. ``backward`` includes the recomputation.
    inversion, precondition : Fraction
        Durations per refresh and per step, divided by the data-parallel replicas of
        the pipeline, which share them.
    activation, saved_gradients : Fraction
        Memory per microbatch.
    factors, static_memory : Fraction
        Memory of all Kronecker factors, without their inverses, and of weights,
        gradients and optimizer state.
    """

    forward: Fraction
    backward: Fraction
    curvature: Fraction
    inversion: Fraction
    precondition: Fraction
    activation: Fraction
    saved_gradients: Fraction
    factors: Fraction
    static_memory: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceModel:
    """The closed forms for one pipeline; ``two_way`` is Chimera, else GPipe or 1F1B."""

    devices: int
    microbatches: int
    two_way: bool
    recompute: bool
    stage: StageWork

    @property
    def forwards(self) -> int:
        """The forwards one after the other on the critical path of a step.

        N + D - 1 one-way; two-way N if N = D, else N + D / 2 - 1
        (``plot_throughput2.py``: ``bubble_f``). For N > D it is a bound that direct
        concatenation of Chimera's units does not reach where B > F.
        """
        if not self.two_way:
            return self.microbatches + self.devices - 1
        if self.microbatches == self.devices:
            return self.microbatches
        return self.microbatches + self.devices // 2 - 1

    @property
    def backwards(self) -> int:
        """The backwards one after the other on the critical path of a step.

        N + D - 1 one-way; two-way N + D - 2 if N = D, else N + D / 2 - 1
        (``plot_throughput2.py``: ``bubble_b``).
        """
        if not self.two_way:
            return self.microbatches + self.devices - 1
        if self.microbatches == self.devices:
            return self.microbatches + self.devices - 2
        return self.microbatches + self.devices // 2 - 1

    @property
    def pipeline(self) -> Fraction:
        """T_pipe, duration of a step without second-order work.

        ``forwards`` x F + ``backwards`` x B (``plot_perf_model.py``: ``time_pipe``).
        """
        return self.forwards * self.stage.forward + self.backwards * self.stage.backward

    @property
    def bubble(self) -> Fraction:
        """T_bubble, idle time of a device in a step.

        T_pipe - N (F + B) (``plot_perf_model.py``: ``time_bubble``).
        """
        work = self.stage.forward + self.stage.backward
        return self.pipeline - self.microbatches * work

    @property
    def kfac(self) -> Fraction:
        """T_kfac, curvature and inversion of a device in a refresh.

        N T_curv + T_inv (``plot_throughput.py``: ``pipes_kfac_save_err``). Two-way a
        device has two stages and half of the inversions of each.
        """
        return self.microbatches * self.stage.curvature + self.stage.inversion

    @property
    def ratio(self) -> Fraction | None:
        """T_kfac / T_bubble, "(curv+inv)/bubble"; None without a bubble.

        Source: ``plot_throughput.py``: ``pipes_kfac_save_err``.
        """
        return self.kfac / self.bubble if self.bubble else None

    @property
    def least_interval(self) -> int | None:
        """The fluid bound on the refresh interval, in steps; None without a bubble.

        The least whole number, at least 1, that is not below T_kfac / T_bubble; 1 where
        there is no second-order work.
        """
        if self.ratio is None:
            return None if self.kfac else 1
        return max(1, math.ceil(self.ratio))

    @property
    def step(self) -> Fraction:
        """Duration of a step whose bubbles take all curvature and inversion.

        T_pipe + T_prec (``plot_throughput.py``: ``y_kfac_save_err``).
        """
        return self.pipeline + self.stage.precondition

    @property
    def memory(self) -> Fraction:
        """Memory of a device, as the authors count it.

        N act + N save_err + 2 mem_kron + 2 mem_param, the last twice if two-way, and
        act once instead of N times with recomputation (``plot_perf_model.py``:
        ``mem``). Their peak of errors within a backward is left out: no instance knows
        it. 1F1B is charged like GPipe; two-way, factors are counted as of one stage.
        """
        held = 1 if self.recompute else self.microbatches
        copies = 2 if self.two_way else 1
        return (
            held * self.stage.activation
            + self.microbatches * self.stage.saved_gradients
            + 2 * self.stage.factors
            + copies * self.stage.static_memory
        )

    def throughput(self, sequences: int, *, precondition: bool) -> Fraction:
        """Sequences per time unit, where a microbatch has ``sequences`` of them.

        N x sequences / T_pipe, with preconditioning / (T_pipe + T_prec)
        (``plot_throughput.py``: ``y_base``, ``y_kfac_save_err``).
        """
        duration = self.step if precondition else self.pipeline
        return self.microbatches * sequences / duration


def performance_model(instance: Instance) -> PerformanceModel:
    """The model of an instance's pipeline and of its second-order work.

    A placement ``linear`` is GPipe or 1F1B, ``bidirectional`` is Chimera. Stages
    without modules have no second-order work.

    Raises
    ------
    NotApplicableError
        If the pipeline is not one that the model describes.
    """
    for reason in _obstacles(instance):
        msg = f"PipeFisher's performance model does not describe {instance.name}: "
        raise NotApplicableError(msg + reason)
    return PerformanceModel(
        devices=len(instance.devices),
        microbatches=instance.microbatches,
        two_way=instance.placement is Placement.BIDIRECTIONAL,
        recompute=bool(instance.recompute),
        stage=_work(instance),
    )


def _obstacles(instance: Instance) -> Iterator[str]:
    """What the model cannot express, each with what would mend it."""
    yield from _shape_obstacles(instance)
    yield from _cost_obstacles(instance)


def _shape_obstacles(instance: Instance) -> Iterator[str]:
    stages, devices = len(instance.stages), len(instance.devices)
    if instance.placement not in (Placement.LINEAR, Placement.BIDIRECTIONAL):
        yield f"placement: {instance.placement}; choose linear or bidirectional"
    if stages != devices:
        yield f"{stages} stages on {devices} devices; give each device one stage"
    if instance.backward is not Backward.WHOLE:
        yield f"backward: {instance.backward}; choose whole"
    if len(instance.recompute) not in (0, stages):
        yield f"recompute: {sorted(instance.recompute)}; choose none or full"
    if instance.placement is Placement.BIDIRECTIONAL:
        if devices % 2:
            yield f"{devices} devices; a two-way pipeline needs an even number"
        if instance.microbatches < devices:
            yield (
                f"{instance.microbatches} microbatches; a two-way pipeline of {devices}"
                " devices needs at least as many"
            )


def _cost_obstacles(instance: Instance) -> Iterator[str]:
    for index, stage in enumerate(instance.stages):
        if stage != instance.stages[0]:
            yield f"stages[{index}] differs from stages[0]; make all stages equal"
    for index, device in enumerate(instance.devices):
        if device.speed != 1:
            yield f"devices[{index}].speed: {device.speed}; scale the durations instead"
    for index, scale in enumerate(instance.microbatch_scale):
        if scale != 1:
            yield f"microbatch_scale[{index}]: {scale}; make all microbatches equal"
    general = instance.communication
    slow = bool(general.latency) or general.bandwidth is not None
    if slow or any(link.latency or link.bandwidth for link in general.links):
        yield "communication: transfers take time; leave out latency and bandwidth"


def _work(instance: Instance) -> StageWork:
    """The work of every stage, which are equal."""
    stage = instance.stages[0]
    backward = stage.whole_backward
    assert backward is not None  # a rule of the format, with whole backwards
    replicas = instance.kfac.replicas if instance.kfac else 1
    return StageWork(
        forward=exact(stage.forward),
        backward=exact(backward) + _recomputation(instance, stage),
        curvature=_over_layers(stage, "curvature_a", "curvature_b"),
        inversion=_over_layers(stage, "inversion_a", "inversion_b") / replicas,
        precondition=exact(stage.precondition) / replicas,
        activation=exact(stage.activation),
        saved_gradients=_over_layers(stage, "saved_gradient"),
        factors=_over_layers(stage, "factor_a", "factor_b"),
        static_memory=exact(stage.static_memory),
    )


def _recomputation(instance: Instance, stage: StageCost) -> Fraction:
    if not instance.recompute:
        return Fraction(0)
    return exact(stage.forward if stage.recompute is None else stage.recompute)


def _over_layers(stage: StageCost, *fields: str) -> Fraction:
    """The sum of a module's fields over all layers of a stage."""
    return sum(
        (
            module.count * exact(getattr(module, field))
            for module in stage.modules
            for field in fields
        ),
        Fraction(0),
    )
