"""What the fields of an instance describe: its stages, its devices, its form."""

from __future__ import annotations

from collections.abc import Iterator

from schedopt.formats.complaints import Path
from schedopt.formats.instance_model import (
    CostFields,
    EqualStagesFields,
    InstanceFields,
    StageFields,
)
from schedopt.formats.instance_runtime import default_form, form_under
from schedopt.instance import Backward, Placement, place
from schedopt.runtimes import profile_of


def stage_count(fields: InstanceFields) -> int:
    """How many stages the file describes."""
    stages = fields.stages
    return stages.count if isinstance(stages, EqualStagesFields) else len(stages)


def device_count(fields: InstanceFields) -> int:
    """How many devices the file describes."""
    devices = fields.devices
    return devices if isinstance(devices, int) else len(devices)


def backward_form(fields: InstanceFields) -> Backward:
    """The form of backward: as given, else split where every stage can.

    A runtime that has one form only leaves no choice.
    """
    if fields.backward is None:
        splits = all(can_split(cost) for _, cost in costs(fields))
        return default_form(fields, splits)
    if fields.runtime:
        return form_under(profile_of(fields.runtime), fields.backward)
    return fields.backward


def devices_of_stages(fields: InstanceFields) -> tuple[int, ...]:
    """The device of each stage."""
    if isinstance(fields.placement, list):
        return tuple(fields.placement)
    return place(fields.placement, stage_count(fields), device_count(fields))


def copy_count(fields: InstanceFields) -> int:
    """On how many devices a stage may live: two if the pipeline is two-way."""
    return 2 if fields.placement is Placement.BIDIRECTIONAL else 1


def layer_count(cost: CostFields) -> int:
    """How many layers of a stage K-FAC preconditions."""
    return sum(module.count for module in cost.modules)


def default_device_name(index: int) -> str:
    """What a device without a name is called."""
    return f"device {index}"


def written_stages(
    fields: InstanceFields,
) -> Iterator[tuple[Path, StageFields, int]]:
    """Each written stage with its path and how many stages it stands for."""
    if isinstance(fields.stages, EqualStagesFields):
        yield ("stages",), fields.stages, fields.stages.count
    else:
        for index, stage in enumerate(fields.stages):
            yield ("stages", index), stage, 1


def costs(fields: InstanceFields) -> Iterator[tuple[Path, CostFields]]:
    """Each stage and each of its parts, with its path."""
    for path, stage, _ in written_stages(fields):
        yield path, stage
        for index, part in enumerate(stage.parts):
            yield (*path, "parts", index), part


def can_split(cost: CostFields) -> bool:
    """Whether the durations of I and W are given."""
    return cost.backward_input is not None and cost.backward_weight is not None
