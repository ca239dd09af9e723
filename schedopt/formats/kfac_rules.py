"""The rules of an instance that concern training steps and K-FAC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from schedopt.formats.complaints import Complaint, Path, show
from schedopt.formats.instance_model import CostFields, InstanceFields
from schedopt.formats.instance_shape import (
    backward_form,
    costs,
    layer_count,
    written_stages,
)
from schedopt.formats.kfac_model import KfacFields, ModuleFields
from schedopt.instance import Backward, Number, Objective, exact, layer_name


def kfac_complaints(fields: InstanceFields) -> Iterator[Complaint]:
    """What is wrong with the steps, the modules and the second-order work."""
    yield from _steps_complaints(fields)
    yield from _objective_complaints(fields)
    form = backward_form(fields)
    for path, cost in costs(fields):
        yield from _name_complaints((*path, "modules"), cost.modules)
        yield from _saved_complaints(fields, form, path, cost)
    if fields.kfac is not None:
        yield from _refresh_complaints(fields.kfac, fields.steps)
        yield from _module_complaints(fields)


def static_grains(fields: InstanceFields, cost: CostFields, grain: Fraction) -> int:
    """What a copy of a stage holds of factors and inverses, which K-FAC always does.

    Every factor is rounded by itself, as where the op graph is built.
    """
    if fields.kfac is None:
        return 0
    return sum(
        2
        * module.count
        * (grains(module.factor_a, grain) + grains(module.factor_b, grain))
        for module in cost.modules
    )


def grains(size: Number, grain: Fraction) -> int:
    """A size in grains, to the nearest."""
    return round(exact(size) / grain)


def _steps_complaints(fields: InstanceFields) -> Iterator[Complaint]:
    """Several steps, and second-order work, are not for every objective and runtime."""
    given: list[tuple[str, str, str]] = []
    if fields.steps > 1:
        given.append(("steps", show(fields.steps), "steps: 1"))
    if fields.kfac is not None:
        given.append(("kfac", "", "no kfac"))
    for name, shown, without in given:
        if fields.runtime:
            yield Complaint(
                (name,),
                shown,
                "is not covered by the rules of any runtime yet, so not by those of"
                f" {fields.runtime}; give no runtime, or {without}",
            )
        if fields.objective is Objective.PERIOD:
            yield Complaint(
                (name,),
                shown,
                "does not go with objective: period, which is of one step without end;"
                f" minimise makespan or device-span, or give {without}",
            )


def _objective_complaints(fields: InstanceFields) -> Iterator[Complaint]:
    """The refresh is one of second-order work."""
    if fields.objective is Objective.REFRESH and fields.kfac is None:
        yield Complaint(
            ("objective",),
            fields.objective.value,
            "needs second-order work; give kfac, or choose another objective",
        )


def _name_complaints(
    path: Path, modules: Sequence[ModuleFields]
) -> Iterator[Complaint]:
    """Two modules, or two layers, that ops would call the same."""
    first: dict[str, int] = {}
    for index, module in enumerate(modules):
        if module.name in first:
            yield Complaint(
                (*path, index, "name"),
                show(module.name),
                f"is also the name of modules[{first[module.name]}]; choose another, or"
                " give one module with count",
            )
        first.setdefault(module.name, index)
    for index, module in enumerate(modules):
        other, _, number = module.name.rpartition(".")
        if (
            module.count == 1
            and other in first
            and _is_layer(module.name, modules[first[other]], number)
        ):
            yield Complaint(
                (*path, index, "name"),
                show(module.name),
                f"is also what layer {number} of modules[{first[other]}] is called;"
                " choose another",
            )


def _is_layer(name: str, module: ModuleFields, number: str) -> bool:
    """Whether a name is what one of several layers of a module is called."""
    count = module.count  # may be huge: layers are counted only if there is K-FAC
    if not (len(number) <= len(str(count)) and number.isascii() and number.isdigit()):
        return False
    is_one = count > 1 and int(number) < count
    return is_one and layer_name(module.name, count, int(number)) == name


def _saved_complaints(
    fields: InstanceFields, form: Backward, path: Path, cost: CostFields
) -> Iterator[Complaint]:
    """Inputs that wait for their curvature are a part of what waits for W (or B)."""
    saved = sum(
        (module.count * exact(module.saved_input) for module in cost.modules),
        Fraction(0),
    )
    kept, of = exact(cost.activation), "activation"
    if cost.activation_until_input and form is not Backward.WHOLE:
        kept -= exact(cost.activation_until_input)
        of = "activation less activation_until_input"
    # Less than a grain more comes of dividing: three layers save a third each.
    if saved and saved - kept >= exact(fields.resolution):
        yield Complaint(
            (*path, "modules"),
            show(cost.modules),
            f"have a saved_input of {show(float(saved))} {fields.memory_unit} together,"
            f" which is a part of {of}, {show(float(kept))}; check saved_input, count"
            " and activation",
        )


def _refresh_complaints(kfac: KfacFields, steps: int) -> Iterator[Complaint]:
    """A refresh takes the data of a step that is unrolled."""
    last = (kfac.refreshes - 1) * kfac.interval
    if last >= steps:
        yield Complaint(
            ("kfac", "refreshes"),
            show(kfac.refreshes),
            f"the last of them begins in step {last}, and the steps are numbered 0 to"
            f" {steps - 1}; use at least steps: {last + 1}, or fewer refreshes",
        )


def _module_complaints(fields: InstanceFields) -> Iterator[Complaint]:
    """There is something to precondition, and parts have what their stage has."""
    stages = list(written_stages(fields))
    if not any(stage.modules for _, stage, _ in stages):
        yield Complaint(
            ("kfac",),
            "",
            "has nothing to precondition; give modules to at least one stage",
        )
    for path, stage, _ in stages:
        layers, found = layer_count(stage), sum(map(layer_count, stage.parts))
        if stage.parts and found != layers:
            yield Complaint(
                (*path, "parts"),
                show(stage.parts),
                f"have {found} layers in modules together, and the stage {layers}; give"
                " each part its modules",
            )
