"""Derived instances: the same model cut, placed or run backward in another form.

A hand-made schedule that needs v stages per device, another placement, or whole
backward runs on the instance derived here; comparisons name its form.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from fractions import Fraction

from schedopt.errors import NotApplicableError
from schedopt.instance import (
    Backward,
    Instance,
    KfacModule,
    Number,
    Placement,
    StageCost,
    exact,
    place,
)

# What the parts of a stage share; ``checkpoint`` and ``output_bytes`` are each one's.
_SHARED = (
    "forward",
    "backward",
    "backward_input",
    "backward_weight",
    "activation",
    "activation_until_input",
    "input_gradient",
    "static_memory",
    "recompute",
    "overlap",
    "precondition",
    "optimizer_step",
    "gradient_bytes",
)


@dataclass(frozen=True, slots=True)
class Form:
    """The shape in which a model's work is scheduled.

    Attributes
    ----------
    placement : Placement
        Where stages live.
    chunks : int
        Stages per device.
    backward : Backward
        Whole or split.
    """

    placement: Placement
    chunks: int
    backward: Backward

    def __str__(self) -> str:
        chunks = "" if self.chunks == 1 else f" x{self.chunks}"
        return f"{self.placement.value}{chunks}, {self.backward.value}"


def form_of(instance: Instance) -> Form:
    """The form that an instance is written in; chunks rounded up."""
    per_device = -(-len(instance.stages) // len(instance.devices))
    return Form(instance.placement, per_device, instance.backward)


def derive(instance: Instance, form: Form) -> Instance:
    """The instance in the given form; the instance itself if it has that form already.

    Stages are cut into equal parts (or into the user's ``parts``), or neighbours are
    merged, until there are ``chunks`` per device. A merged stage needs the sum of its
    parts' times and memory; transfers within it disappear.

    Raises
    ------
    NotApplicableError
        If the stages cannot be brought to ``chunks`` per device, or a duration that the
        form needs is not known.
    """
    written = form_of(instance)
    if form == written:
        return instance
    if form == replace(written, backward=form.backward):
        _check_backward(instance.stages, form.backward)
        return replace(
            instance,
            stages=_without_overlap(instance.stages, form.backward),
            backward=form.backward,
        )
    devices = len(instance.devices)
    if form.placement is Placement.LINEAR and form.chunks == 1:
        # Fewer stages than devices already are one per device.
        stages = _regroup(instance, min(devices, len(instance.stages)))
    else:
        stages = _regroup(instance, form.chunks * devices)
    _check_backward(stages, form.backward)
    placement = form.placement
    if len(stages) == devices and placement in (Placement.LOOPED, Placement.V):
        placement = Placement.LINEAR  # one stage per device: the same thing
    return replace(
        instance,
        stages=_without_overlap(stages, form.backward),
        placement=placement,
        device_of_stage=place(placement, len(stages), devices),
        backward=form.backward,
        recompute=_recompute(instance, len(stages)),
    )


def _regroup(instance: Instance, count: int) -> tuple[StageCost, ...]:
    if count == len(instance.stages):
        return instance.stages
    stages = worked_on(instance)
    if count % len(stages) == 0:
        pieces = count // len(stages)
        return tuple(part for stage in stages for part in cut(stage, pieces))
    if len(stages) % count == 0:
        size = len(stages) // count
        return tuple(
            _merge(stages[first : first + size])
            for first in range(0, len(stages), size)
        )
    if instance.placement is Placement.LINEAR and count == len(instance.devices) < len(
        stages
    ):
        return tuple(
            _merge(tuple(stages[s] for s in instance.stages_of(device)))
            for device in range(count)
        )
    msg = f"{len(stages)} stages cannot be cut or merged into {count} equal groups"
    raise NotApplicableError(msg)


def worked_on(instance: Instance) -> tuple[StageCost, ...]:
    """The stages, without their modules where no second-order work needs them.

    So what could not be shared by parts is in nobody's way.
    """
    if instance.kfac is not None:
        return instance.stages
    return tuple(map(_without_modules, instance.stages))


def _without_modules(stage: StageCost) -> StageCost:
    if not any(cost.modules for cost in (stage, *stage.parts)):
        return stage
    parts = tuple(map(_without_modules, stage.parts))
    return replace(stage, modules=(), parts=parts)


def cut(
    stage: StageCost, pieces: int, unit: Fraction | None = None
) -> tuple[StageCost, ...]:
    """The user's parts if there are that many, else equal ones.

    With a ``unit``, a time or size that has no equal shares in whole units is shared as
    equally as whole units allow, the first parts having more; the shares then add up to
    it, rounded to the unit. Every part sends what the stage sends.
    """
    if len(stage.parts) == pieces:
        return stage.parts
    shares: dict[str, tuple[Number, ...]] = {
        name: _shares(value, pieces, unit)
        for name in _SHARED
        if (value := getattr(stage, name)) is not None
    }
    modules = _cut_modules(stage.modules, pieces)
    costs = {field.name: getattr(stage, field.name) for field in fields(stage)}
    return tuple(
        StageCost(
            **costs
            | {"parts": (), "modules": modules}
            | {name: found[i] for name, found in shares.items()}
        )
        for i in range(pieces)
    )


def _cut_modules(
    modules: tuple[KfacModule, ...], pieces: int
) -> tuple[KfacModule, ...]:
    """Each part's share of the modules, whose layers are not cut themselves."""
    for module in modules:
        if module.count % pieces:
            layers = "layer" if module.count == 1 else "layers"
            msg = (
                f"{module.count} {layers} of module {module.name} cannot be shared"
                f" equally by {pieces} parts of a stage; give the stage its parts"
            )
            raise NotApplicableError(msg)
    return tuple(replace(m, count=m.count // pieces) for m in modules)


def _merge(stages: tuple[StageCost, ...]) -> StageCost:
    return StageCost(
        forward=_total([s.forward for s in stages]),
        backward=_maybe_total([s.backward for s in stages])
        if any(s.backward is not None for s in stages)
        and all(s.backward is not None for s in stages)
        else _maybe_total([s.whole_backward for s in stages]),
        backward_input=_maybe_total([s.backward_input for s in stages]),
        backward_weight=_maybe_total([s.backward_weight for s in stages]),
        activation=_total([s.activation for s in stages]),
        activation_until_input=_total([s.activation_until_input for s in stages]),
        input_gradient=_total([s.input_gradient for s in stages]),
        static_memory=_total([s.static_memory for s in stages]),
        output_bytes=stages[-1].output_bytes,
        recompute=_maybe_total([s.recompute for s in stages]),
        checkpoint=stages[0].checkpoint,
        overlap=_maybe_total([s.overlap for s in stages]),
        # Parts have no parts of their own in a file.
        parts=tuple(replace(s, parts=()) if s.parts else s for s in stages),
        modules=_merge_modules(stages),
        precondition=_total([s.precondition for s in stages]),
        optimizer_step=_total([s.optimizer_step for s in stages]),
        gradient_bytes=_total([s.gradient_bytes for s in stages]),
    )


def _merge_modules(stages: tuple[StageCost, ...]) -> tuple[KfacModule, ...]:
    """The modules of all stages; equal ones of one name are counted together."""
    counts: dict[KfacModule, int] = {}
    for module in (module for stage in stages for module in stage.modules):
        one = replace(module, count=1)
        counts[one] = counts.get(one, 0) + module.count
    merged: list[KfacModule] = []
    names: set[str] = set()
    layers: set[str] = set()
    for module, count in counts.items():
        named = replace(module, count=count)
        number = 1
        while named.name in names or not layers.isdisjoint(named.layers):
            number += 1
            named = replace(named, name=f"{module.name}-{number}")
        merged.append(named)
        names.add(named.name)
        layers.update(named.layers)
    return tuple(merged)


def _recompute(instance: Instance, count: int) -> frozenset[int]:
    """The recomputed stages of a regrouped instance: all or none of them."""
    if not instance.recompute or count == len(instance.stages):
        return instance.recompute
    if len(instance.recompute) == len(instance.stages):
        return frozenset(range(count))
    msg = "stages of which only some are recomputed cannot be cut or merged"
    raise NotApplicableError(msg)


def _check_backward(stages: tuple[StageCost, ...], backward: Backward) -> None:
    if backward is not Backward.WHOLE and not all(s.can_split for s in stages):
        msg = "needs backward_input and backward_weight for every stage"
        raise NotApplicableError(msg)
    if backward is not Backward.SPLIT and any(s.whole_backward is None for s in stages):
        msg = "needs the duration of the whole backward for every stage"
        raise NotApplicableError(msg)


def _without_overlap(
    stages: tuple[StageCost, ...], backward: Backward
) -> tuple[StageCost, ...]:
    """The stages as they are, but for split backward: only a whole one overlaps."""
    if backward is not Backward.SPLIT:
        return stages
    return tuple(
        stage if stage.overlap is None else replace(stage, overlap=None)
        for stage in stages
    )


def _shares(value: Number, pieces: int, unit: Fraction | None) -> tuple[Number, ...]:
    if unit is None:
        return (_number(exact(value) / pieces),) * pieces
    least, longer = divmod(round(exact(value) / unit), pieces)
    return tuple(_number((least + (i < longer)) * unit) for i in range(pieces))


def _total(values: list[Number]) -> Number:
    return _number(sum(map(exact, values), Fraction(0)))


def _maybe_total(values: list[Number | None]) -> Number | None:
    known = [value for value in values if value is not None]
    return _total(known) if len(known) == len(values) else None


def _number(value: Fraction) -> Number:
    return value.numerator if value.denominator == 1 else float(value)
