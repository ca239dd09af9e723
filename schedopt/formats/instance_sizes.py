"""How many ops an instance has: one of too many is refused before it is made."""

from __future__ import annotations

from collections.abc import Iterator

from schedopt.formats.complaints import Complaint, show
from schedopt.formats.instance_model import InstanceFields
from schedopt.formats.instance_shape import (
    backward_form,
    copy_count,
    device_count,
    layer_count,
    stage_count,
    written_stages,
)
from schedopt.formats.limits import Limits
from schedopt.instance import Backward

# Ops per stage and microbatch of each form of backward, F included.
_KINDS = {Backward.WHOLE: 2, Backward.SPLIT: 3, Backward.CHOOSE: 4}
_TRANSFERS = 2
# Factors of a layer, each with its curvature, its reduction and its inversion.
_SIDES = 2


def estimated_ops(fields: InstanceFields) -> int:
    """About how many ops the instance has, alternatives and transfers included."""
    steps = fields.steps
    ops = steps * _of_a_step(fields)
    copies = stage_count(fields) * copy_count(fields)
    if fields.kfac is not None:
        return ops + _of_kfac(fields)
    # STEP ends a step that is followed by another.
    return ops + (steps * copies if steps > 1 else 0)


def _of_a_step(fields: InstanceFields) -> int:
    """The pipeline's ops of one step."""
    stages, devices = stage_count(fields), device_count(fields)
    kinds = _KINDS[backward_form(fields)] + (fields.recompute not in ("none", []))
    ops = fields.microbatches * stages * (kinds + _TRANSFERS)
    overlapping = sum(
        count for _, stage, count in written_stages(fields) if stage.overlap is not None
    )
    # A joint op for every forward and backward that meet on a device.
    per_device = -(-overlapping // max(devices, 1))
    return ops + overlapping * per_device * fields.microbatches**2


def _of_kfac(fields: InstanceFields) -> int:
    """Second-order work, and the optimizer's step after it."""
    if fields.kfac is None:
        return 0
    copies = copy_count(fields)
    shared = copies * fields.kfac.replicas > 1
    layers = sum(
        count * layer_count(stage) for _, stage, count in written_stages(fields)
    )
    per_refresh = layers * _SIDES * (fields.microbatches + shared + copies)
    # PRECONDITION and STEP of every copy, REDUCE_GRAD and GATHER_GRAD of all together.
    per_step = stage_count(fields) * (2 * copies + 2 * shared)
    return fields.kfac.refreshes * per_refresh + fields.steps * per_step


def size_complaints(fields: InstanceFields, limits: Limits) -> Iterator[Complaint]:
    """More ops than the cap; checked before anything of that size is made."""
    stages = stage_count(fields)
    if stages == 0:
        yield Complaint(("stages",), show([]), "must have at least one stage")
    if device_count(fields) == 0:
        yield Complaint(("devices",), show([]), "must have at least one device")
    ops = estimated_ops(fields)
    if ops > limits.max_ops:
        steps = f", {fields.steps} steps" if fields.steps > 1 else ""
        kfac = " and K-FAC" if fields.kfac is not None else ""
        yield Complaint(
            ("microbatches",),
            show(fields.microbatches),
            f"with {stages} stages{steps}{kfac} makes about {ops:,} ops, more than the"
            f" {limits.max_ops:,} allowed; raise the cap with --max-ops",
        )
