"""Which instances a runtime can execute at all, whatever their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from schedopt.formats.complaints import Complaint, show
from schedopt.formats.instance_model import EqualStagesFields, InstanceFields
from schedopt.instance import Backward, Placement, place
from schedopt.runtimes import (
    Forms,
    Recompute,
    RuntimeProfile,
    Shape,
    profile_of,
)


def placement_objection(
    profile: RuntimeProfile, device_of_stage: Sequence[int], devices: int
) -> str:
    """Why a runtime does not have a placement, and what it has; empty if it does."""
    idle = set(range(devices)) - set(device_of_stage)
    if idle:
        return (
            f"device {min(idle)} has no stage, and every rank of {profile.name} needs"
            " one; leave the device out"
        )
    shapes = profile.shapes
    if not shapes or any(_is_of(s, device_of_stage, devices) for s in shapes):
        return ""
    return (
        f"{profile.name} cannot place {len(device_of_stage)} stages on {devices}"
        f" devices so: it has {profile.placement_text}; change placement or the number"
        " of stages"
    )


def two_way_objection(profile: RuntimeProfile) -> str:
    """Why a runtime does not have the placement ``bidirectional``, and what it has."""
    others = profile.placement_text if profile.shapes else "any other placement"
    return (
        f"{profile.name} has no stage on two devices, as placement bidirectional has;"
        f" it has {others}"
    )


def devices_objection(profile: RuntimeProfile, devices: int) -> str:
    """Why a runtime cannot run on so many devices; empty if it can."""
    if devices > 1 or profile.takes_one_device:
        return ""
    return f"one device is no pipeline to {profile.name}"


def microbatches_objection(
    profile: RuntimeProfile, microbatches: int, devices: int
) -> str:
    """Why a runtime cannot run so many microbatches; empty if it can."""
    if not profile.multiple_of_devices or microbatches % devices == 0:
        return ""
    return (
        f"{profile.name} needs a multiple of the number of devices, {devices};"
        f" {devices * -(-microbatches // devices)} would do"
    )


def _is_of(shape: Shape, device_of_stage: Sequence[int], devices: int) -> bool:
    counts = set(Counter(device_of_stage).values())
    if len(counts) != 1:
        return False
    (count,) = counts
    if count < shape.least or (shape.most is not None and count > shape.most):
        return False
    right = place(Placement(shape.placement), len(device_of_stage), devices)
    return tuple(device_of_stage) == right


def form_under(profile: RuntimeProfile, backward: Backward) -> Backward:
    """The form that is left of ``choose`` where the runtime has one only."""
    if backward is not Backward.CHOOSE:
        return backward
    match profile.forms:
        case Forms.WHOLE:
            return Backward.WHOLE
        case Forms.SPLIT:
            return Backward.SPLIT
        case _:
            return backward


def default_form(fields: InstanceFields, splits: bool) -> Backward:
    """The form of an instance that gives none: split where all stages and it can."""
    if fields.runtime:
        profile = profile_of(fields.runtime)
        splits = splits and profile.has_split and not _bars_split(fields, profile)
        splits = splits or not profile.has_whole
    return Backward.SPLIT if splits else Backward.WHOLE


def recomputed_stages(fields: InstanceFields, stages: int) -> frozenset[int]:
    """The stages that the field ``recompute`` names."""
    if isinstance(fields.recompute, str):
        return frozenset(range(stages) if fields.recompute == "full" else ())
    return frozenset(fields.recompute)


def _bars_split(fields: InstanceFields, profile: RuntimeProfile) -> bool:
    stages = fields.stages
    count = stages.count if isinstance(stages, EqualStagesFields) else len(stages)
    return bool(profile.whole_only(recomputed_stages(fields, count)))


def runtime_complaints(
    fields: InstanceFields,
    backward: Backward,
    device_of_stage: Sequence[int],
    devices: int,
) -> Iterator[Complaint]:
    """What the instance's runtime can never execute; nothing without a runtime."""
    if not fields.runtime:
        return
    profile = profile_of(fields.runtime)
    recompute = recomputed_stages(fields, len(device_of_stage))
    if why := devices_objection(profile, devices):
        yield Complaint(("devices",), show(fields.devices), why)
    if why := microbatches_objection(profile, fields.microbatches, devices):
        yield Complaint(("microbatches",), show(fields.microbatches), f"runtime {why}")
    yield from _placement(fields, profile, device_of_stage, devices)
    yield from _backward(profile, backward, recompute)
    if recompute and profile.recompute is Recompute.NONE:
        yield Complaint(
            ("recompute",),
            show(fields.recompute),
            f"runtime {profile.name} cannot recompute in an order; use recompute: none",
        )
    stages = fields.stages
    written = [stages] if isinstance(stages, EqualStagesFields) else stages
    for index, stage in enumerate(written):
        if stage.overlap is not None:
            alone = isinstance(stages, EqualStagesFields)
            yield Complaint(
                ("stages", "overlap") if alone else ("stages", index, "overlap"),
                show(stage.overlap),
                f"runtime {profile.name} runs no forward and backward as one op; remove"
                " overlap",
            )


def _placement(
    fields: InstanceFields,
    profile: RuntimeProfile,
    device_of_stage: Sequence[int],
    devices: int,
) -> Iterator[Complaint]:
    if fields.placement is Placement.BIDIRECTIONAL:
        yield Complaint(
            ("placement",),
            show(fields.placement),
            f"runtime {two_way_objection(profile)}",
        )
        return
    why = placement_objection(profile, device_of_stage, devices)
    if why:
        shown = fields.placement
        yield Complaint(
            ("placement",),
            str(shown) if isinstance(shown, list) else show(shown),
            f"runtime {why}" if why.startswith(profile.name) else why,
        )


def _backward(
    profile: RuntimeProfile, backward: Backward, recompute: frozenset[int]
) -> Iterator[Complaint]:
    if backward is Backward.SPLIT and not profile.has_split:
        yield Complaint(
            ("backward",),
            show(backward),
            f"runtime {profile.name} has no split backward; use backward: whole",
        )
    elif backward is Backward.WHOLE and not profile.has_whole:
        yield Complaint(
            ("backward",),
            show(backward),
            f"runtime {profile.name} has no whole backward; use backward: split",
        )
    barred = profile.whole_only(recompute)
    one_form = profile.forms in (Forms.PER_SCHEDULE, Forms.PER_MICROBATCH)
    if barred and (
        backward is Backward.SPLIT or (backward is Backward.CHOOSE and one_form)
    ):
        yield Complaint(
            ("backward",),
            show(backward),
            f"runtime {profile.name} would recompute stage {min(barred)} in I and again"
            " in W; use backward: whole, or do not recompute it",
        )
