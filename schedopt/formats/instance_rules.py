"""The rules of an instance that concern several fields together."""

from __future__ import annotations

from collections.abc import Iterator

from schedopt.formats.complaints import Complaint, Path, show
from schedopt.formats.instance_model import InstanceFields
from schedopt.formats.instance_runtime import runtime_complaints
from schedopt.formats.instance_shape import (
    backward_form,
    can_split,
    costs,
    default_device_name,
    device_count,
    devices_of_stages,
    stage_count,
    written_stages,
)
from schedopt.formats.instance_times import time_complaints
from schedopt.formats.kfac_rules import grains, kfac_complaints, static_grains
from schedopt.instance import Backward, CommunicationMode, Number, Placement, exact


def rule_complaints(fields: InstanceFields) -> Iterator[Complaint]:
    """Everything that is wrong with fields that are well formed each by itself."""
    yield from _backward_complaints(fields)
    yield from _cost_complaints(fields)
    yield from _device_complaints(fields)
    yield from _communication_complaints(fields)
    yield from _microbatch_complaints(fields)
    yield from _recompute_complaints(fields)
    yield from kfac_complaints(fields)
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


def _backward_complaints(fields: InstanceFields) -> Iterator[Complaint]:
    form = backward_form(fields)
    for path, cost in costs(fields):
        if form is Backward.WHOLE:
            if cost.backward is None and not can_split(cost):
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
    for path, cost in costs(fields):
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
        static = [grains(device.static_memory, grain) for device in fields.devices]
    written = [stage for _, stage, _ in written_stages(fields)]
    for stage, home in enumerate(devices_of_stages(fields)):
        cost = written[stage % len(written)]
        size = grains(cost.static_memory, grain) + static_grains(fields, cost, grain)
        held = {home}
        if fields.placement is Placement.BIDIRECTIONAL:
            held.add(devices - 1 - home)
        for device in held:
            static[device] += size
    for index, used in enumerate(static):
        path, limit = _limit_of(fields, index)
        if limit is not None and used > grains(limit, grain):
            yield Complaint(
                path,
                show(limit),
                f"device {index} needs {show(float(used * grain))} {fields.memory_unit}"
                f" of static memory already, its own and its stages'{_factors(fields)};"
                " raise the limit or move stages",
            )


def _factors(fields: InstanceFields) -> str:
    return "" if fields.kfac is None else " with K-FAC's factors and inverses"


def _limit_of(fields: InstanceFields, index: int) -> tuple[Path, Number | None]:
    """A device's memory limit, and where it is written."""
    if isinstance(fields.devices, list):
        device = fields.devices[index]
        if "memory_limit" in device.model_fields_set:
            return ("devices", index, "memory_limit"), device.memory_limit
    return ("memory_limit",), fields.memory_limit
