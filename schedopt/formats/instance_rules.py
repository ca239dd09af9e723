"""The rules of an instance that concern several fields together."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from schedopt.formats.complaints import Complaint, Path, show
from schedopt.formats.instance_model import (
    CostFields,
    EqualStagesFields,
    InstanceFields,
    StageFields,
)
from schedopt.formats.instance_runtime import (
    default_form,
    form_under,
    runtime_complaints,
)
from schedopt.formats.instance_times import time_complaints
from schedopt.formats.limits import Limits
from schedopt.instance import (
    Backward,
    CommunicationMode,
    Number,
    Placement,
    exact,
    place,
)
from schedopt.runtimes import profile_of

# Ops per stage and microbatch of each form of backward, F included.
_KINDS = {Backward.WHOLE: 2, Backward.SPLIT: 3, Backward.CHOOSE: 4}
_TRANSFERS = 2


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
        splits = all(_can_split(cost) for _, cost in _costs(fields))
        return default_form(fields, splits)
    if fields.runtime:
        return form_under(profile_of(fields.runtime), fields.backward)
    return fields.backward


def devices_of_stages(fields: InstanceFields) -> tuple[int, ...]:
    """The device of each stage."""
    if isinstance(fields.placement, list):
        return tuple(fields.placement)
    return place(fields.placement, stage_count(fields), device_count(fields))


def estimated_ops(fields: InstanceFields) -> int:
    """About how many ops the instance has, alternatives and transfers included."""
    stages, devices = stage_count(fields), device_count(fields)
    kinds = _KINDS[backward_form(fields)] + (fields.recompute not in ("none", []))
    ops = fields.microbatches * stages * (kinds + _TRANSFERS)
    overlapping = sum(stage.overlap is not None for _, stage in written_stages(fields))
    if isinstance(fields.stages, EqualStagesFields):
        overlapping *= stages
    # A joint op for every forward and backward that meet on a device.
    per_device = -(-overlapping // max(devices, 1))
    return ops + overlapping * per_device * fields.microbatches**2


def size_complaints(fields: InstanceFields, limits: Limits) -> Iterator[Complaint]:
    """More ops than the cap; checked before anything of that size is made."""
    stages = stage_count(fields)
    if stages == 0:
        yield Complaint(("stages",), show([]), "must have at least one stage")
    if device_count(fields) == 0:
        yield Complaint(("devices",), show([]), "must have at least one device")
    ops = estimated_ops(fields)
    if ops > limits.max_ops:
        yield Complaint(
            ("microbatches",),
            show(fields.microbatches),
            f"with {stages} stages makes about {ops:,} ops, more than the"
            f" {limits.max_ops:,} allowed; raise the cap with --max-ops",
        )


def rule_complaints(fields: InstanceFields) -> Iterator[Complaint]:
    """Everything that is wrong with fields that are well formed each by itself."""
    yield from _backward_complaints(fields)
    yield from _cost_complaints(fields)
    yield from _device_complaints(fields)
    yield from _communication_complaints(fields)
    yield from _microbatch_complaints(fields)
    yield from _recompute_complaints(fields)
    yield from time_complaints(fields)
    placement = list(_placement_complaints(fields))
    yield from placement or _memory_complaints(fields)
    if not placement:
        yield from runtime_complaints(
            fields,
            backward_form(fields),
            devices_of_stages(fields),
            device_count(fields),
        )


def written_stages(fields: InstanceFields) -> Iterator[tuple[Path, StageFields]]:
    """Each written stage with its path; equal stages are one."""
    if isinstance(fields.stages, EqualStagesFields):
        yield ("stages",), fields.stages
    else:
        for index, stage in enumerate(fields.stages):
            yield ("stages", index), stage


def _costs(fields: InstanceFields) -> Iterator[tuple[Path, CostFields]]:
    """Each stage and each of its parts, with its path."""
    for path, stage in written_stages(fields):
        yield path, stage
        for index, part in enumerate(stage.parts):
            yield (*path, "parts", index), part


def _can_split(cost: CostFields) -> bool:
    return cost.backward_input is not None and cost.backward_weight is not None


def _backward_complaints(fields: InstanceFields) -> Iterator[Complaint]:
    form = backward_form(fields)
    for path, cost in _costs(fields):
        if form is Backward.WHOLE:
            if cost.backward is None and not _can_split(cost):
                yield Complaint(
                    (*path, "backward"),
                    "",
                    "is missing; with backward: whole give backward, or both"
                    " backward_input and backward_weight",
                )
            continue
        for name in ("backward_input", "backward_weight"):
            if getattr(cost, name) is None:
                yield Complaint(
                    (*path, name),
                    "",
                    f"is missing; backward: {form} needs it on every stage"
                    " (or choose backward: whole)",
                )
        if cost.overlap is not None and form is Backward.SPLIT:
            yield Complaint(
                (*path, "overlap"),
                show(cost.overlap),
                "needs backward: whole or choose; remove it or change backward",
            )


def _cost_complaints(fields: InstanceFields) -> Iterator[Complaint]:
    for path, cost in _costs(fields):
        if cost.activation_until_input > cost.activation:
            yield Complaint(
                (*path, "activation_until_input"),
                show(cost.activation_until_input),
                f"must be at most activation, {show(cost.activation)}, of which it is"
                " a part",
            )


def _device_complaints(fields: InstanceFields) -> Iterator[Complaint]:
    if isinstance(fields.devices, int):
        return
    owners: dict[str, int] = {}
    for index, device in enumerate(fields.devices):
        name = device.name or default_device_name(index)
        if name in owners:
            yield Complaint(
                ("devices", index, "name"),
                show(name),
                f"is also the name of devices[{owners[name]}]; choose another",
            )
        owners.setdefault(name, index)


def default_device_name(index: int) -> str:
    """What a device without a name is called."""
    return f"device {index}"


def _communication_complaints(fields: InstanceFields) -> Iterator[Complaint]:
    communication = fields.communication
    if communication.transfer_buffers and communication.mode is CommunicationMode.LAG:
        yield Complaint(
            ("communication", "transfer_buffers"),
            "true",
            "needs mode: link or blocking, because a lag is no op that could hold them",
        )
    devices = device_count(fields)
    seen: dict[tuple[int, int], int] = {}
    for index, link in enumerate(communication.links):
        path: Path = ("communication", "links", index)
        for name, device in (("from", link.source), ("to", link.target)):
            if device >= devices:
                yield _no_device((*path, name), device, devices)
        if link.source == link.target:
            yield Complaint(
                (*path, "to"),
                show(link.target),
                "must differ from from: a transfer within a device costs nothing",
            )
        first = seen.setdefault((link.source, link.target), index)
        if first != index:
            yield Complaint(
                path,
                "",
                f"is the same link as communication.links[{first}]; remove one",
            )


def _no_device(path: Path, device: int, devices: int) -> Complaint:
    return Complaint(
        path,
        show(device),
        f"there is no such device; devices are numbered 0 to {devices - 1}",
    )


def _microbatch_complaints(fields: InstanceFields) -> Iterator[Complaint]:
    given = len(fields.microbatch_scale)
    if given and given != fields.microbatches:
        yield Complaint(
            ("microbatch_scale",),
            f"a list of {given}",
            f"must have one factor for each of the {fields.microbatches} microbatches",
        )


def _recompute_complaints(fields: InstanceFields) -> Iterator[Complaint]:
    if isinstance(fields.recompute, str):
        return
    stages = stage_count(fields)
    seen: set[int] = set()
    for index, stage in enumerate(fields.recompute):
        path: Path = ("recompute", index)
        if stage >= stages:
            yield Complaint(
                path,
                show(stage),
                f"there is no such stage; stages are numbered 0 to {stages - 1}",
            )
        elif stage in seen:
            yield Complaint(path, show(stage), "stands twice in the list; remove one")
        seen.add(stage)


def _placement_complaints(fields: InstanceFields) -> Iterator[Complaint]:
    placement = fields.placement
    stages, devices = stage_count(fields), device_count(fields)
    if isinstance(placement, list):
        if len(placement) != stages:
            yield Complaint(
                ("placement",),
                show(placement),
                f"must have one device for each of the {stages} stages",
            )
        for index, device in enumerate(placement):
            if device >= devices:
                yield _no_device(("placement", index), device, devices)
    elif placement is Placement.BIDIRECTIONAL and stages != devices:
        yield Complaint(
            ("placement",),
            show(placement),
            f"needs as many stages as devices; there are {stages} stages and"
            f" {devices} devices",
        )
    elif stages < devices:
        shown = "" if isinstance(fields.devices, list) else show(fields.devices)
        yield Complaint(
            ("devices",),
            shown,
            f"placement {placement} leaves devices without a stage: there are only"
            f" {stages} stages for {devices} devices; use at most {stages} devices",
        )


def _memory_complaints(fields: InstanceFields) -> Iterator[Complaint]:
    """Static memory that does not fit even before anything runs."""
    devices = device_count(fields)
    grain = exact(fields.resolution)
    static = [0] * devices
    if isinstance(fields.devices, list):
        static = [_grains(device.static_memory, grain) for device in fields.devices]
    written = [stage for _, stage in written_stages(fields)]
    for stage, home in enumerate(devices_of_stages(fields)):
        size = _grains(written[stage % len(written)].static_memory, grain)
        held = {home}
        if fields.placement is Placement.BIDIRECTIONAL:
            held.add(devices - 1 - home)
        for device in held:
            static[device] += size
    for index, used in enumerate(static):
        path, limit = _limit_of(fields, index)
        if limit is not None and used > _grains(limit, grain):
            yield Complaint(
                path,
                show(limit),
                f"device {index} needs {show(float(used * grain))} {fields.memory_unit}"
                " of static memory already, its own and its stages'; raise the limit"
                " or move stages",
            )


def _limit_of(fields: InstanceFields, index: int) -> tuple[Path, Number | None]:
    """A device's memory limit, and where it is written."""
    if isinstance(fields.devices, list):
        device = fields.devices[index]
        if "memory_limit" in device.model_fields_set:
            return ("devices", index, "memory_limit"), device.memory_limit
    return ("memory_limit",), fields.memory_limit


def _grains(size: Number, grain: Fraction) -> int:
    return round(exact(size) / grain)
