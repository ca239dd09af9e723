"""Placements to try: the same model on the same devices, its stages elsewhere.

Each rule makes one placed instance of another, or says why it cannot. Devices, limits,
links and microbatches stay what they are. Where a placement needs several stages per
device and the instance has one, every stage is cut in two (DESIGN's equal parts, or the
user's ``parts``), in whole ticks and grains, so that nothing is lost in rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from schedopt.build.balance import balanced_sizes, largest_load
from schedopt.build.derive import Form, cut, derive, form_of, worked_on
from schedopt.errors import InstanceError, NotApplicableError
from schedopt.formats import Limits, instance_document, instance_from_document
from schedopt.instance import Instance, Placement, StageCost, exact, place


@dataclass(frozen=True, slots=True)
class Candidate:
    """A placement by name, and the instance that has it."""

    name: str
    instance: Instance


@dataclass(frozen=True, slots=True)
class Candidates:
    """The placements to try, the instance's own first; and (name, why not) of others.

    No two of them are the same problem.
    """

    tried: tuple[Candidate, ...]
    not_tried: tuple[tuple[str, str], ...]


def linear(instance: Instance) -> Instance:
    """Contiguous stages on each device, as equally many as possible."""
    return _with_stages_placed(instance, Placement.LINEAR)


def merged(instance: Instance) -> Instance:
    """One stage on each device, in which contiguous ones are merged."""
    return derive(instance, Form(Placement.LINEAR, 1, instance.backward))


def looped(instance: Instance) -> Instance:
    """Several stages on each device, every pass over the devices in the same order."""
    return _with_stages_placed(_several_per_device(instance), Placement.LOOPED)


def v_shaped(instance: Instance) -> Instance:
    """Several stages on each device, every other pass back over the devices."""
    return _with_stages_placed(_several_per_device(instance), Placement.V)


def balanced(instance: Instance) -> Instance:
    """Contiguous stages on each device, so that the most loaded one has least work."""
    several = _several_per_device(instance)
    sizes = balanced_sizes(several)
    if sizes is None:
        msg = "no contiguous stages fit in the static memory of every device"
        raise NotApplicableError(msg)
    where = tuple(device for device, size in enumerate(sizes) for _ in range(size))
    found = replace(several, placement=Placement.EXPLICIT, device_of_stage=where)
    if largest_load(found) >= largest_load(linear(several)):
        msg = "linear has as little work on the most loaded device"
        raise NotApplicableError(msg)
    return found


Rule = Callable[[Instance], Instance]

_NAMED: Mapping[Placement, Rule] = {
    Placement.LINEAR: linear,
    Placement.LOOPED: looped,
    Placement.V: v_shaped,
}

RULES: tuple[Rule, ...] = (linear, merged, looped, v_shaped, balanced)
"""In the order in which they are tried."""

_NAMES: Mapping[Rule, str] = {
    linear: "linear",
    merged: "linear merged",
    looped: "looped",
    v_shaped: "v",
    balanced: "balanced",
}


def candidates_of(instance: Instance, limits: Limits | None = None) -> Candidates:
    """The placements of the instance's stages that are worth trying.

    ``limits`` bound the size of what is tried; None: the usual ones.
    """
    tried = [Candidate(_label(instance), instance)]
    not_tried: list[tuple[str, str]] = []
    for rule in RULES:
        if rule is merged and len(instance.stages) <= len(instance.devices):
            continue  # there is nothing to merge
        try:
            found = _named(instance, _apply(rule, instance, limits))
        except NotApplicableError as error:
            not_tried.append((_NAMES[rule], str(error)))
            continue
        same = [one for one in tried if is_same_problem(one.instance, found.instance)]
        if not same:
            tried.append(found)
        elif same[0].name != found.name:
            not_tried.append((found.name, f"is the same as {same[0].name}"))
    return Candidates(tuple(tried), tuple(not_tried))


def placed(
    instance: Instance, placement: Placement, limits: Limits | None = None
) -> Instance:
    """The instance in a named placement; itself if it is written so.

    Raises
    ------
    NotApplicableError
        If the stages cannot be placed so.
    """
    if instance.placement is placement:
        return instance
    found = _apply(_NAMED[placement], instance, limits)
    return _named(instance, found).instance


def is_same_problem(one: Instance, other: Instance) -> bool:
    """Whether two placed instances differ in the placement's name at most."""
    two_way = Placement.BIDIRECTIONAL
    return (
        one.stages == other.stages
        and one.device_of_stage == other.device_of_stage
        and (one.placement is two_way) == (other.placement is two_way)
    )


def _apply(rule: Rule, instance: Instance, limits: Limits | None) -> Instance:
    """What a rule makes, if it is an instance that a file may hold."""
    if len(instance.devices) == 1:
        msg = "there is only one device"
        raise NotApplicableError(msg)
    found = rule(instance)
    try:
        instance_from_document(
            instance_document(found), _NAMES[rule], limits or Limits()
        )
    except InstanceError as error:
        raise NotApplicableError(str(error).partition(": ")[2]) from None
    return found


def _named(instance: Instance, found: Instance) -> Candidate:
    """With the placement in the instance's name."""
    label = _label(found) if found.placement is not Placement.EXPLICIT else "balanced"
    suffix = label.replace(" ", "-")
    return Candidate(label, replace(found, name=f"{instance.name}-{suffix}"))


def _label(instance: Instance) -> str:
    """``v x2``: the placement and, where it is not 1, the stages per device."""
    form = form_of(instance)
    several = "" if form.chunks == 1 else f" x{form.chunks}"
    return f"{form.placement.value}{several}"


def _with_stages_placed(instance: Instance, placement: Placement) -> Instance:
    stages, devices = len(instance.stages), len(instance.devices)
    if stages < devices:
        msg = f"there are only {stages} stages for {devices} devices"
        raise NotApplicableError(msg)
    where = place(placement, stages, devices)
    return replace(instance, placement=placement, device_of_stage=where)


def _several_per_device(instance: Instance) -> Instance:
    """The stages as they are if they are more than the devices, else cut to two each.

    A recomputed stage's parts are recomputed. Only ``stages`` and ``recompute`` of the
    result make sense: the caller places it.
    """
    stages, devices = len(instance.stages), len(instance.devices)
    if stages > devices:
        return instance
    pieces, left = divmod(2 * devices, stages)
    if left:
        msg = f"{stages} stages cannot be cut equally into {2 * devices}"
        raise NotApplicableError(msg)
    unit = exact(instance.resolution)
    parts: tuple[StageCost, ...] = tuple(
        part for stage in worked_on(instance) for part in cut(stage, pieces, unit)
    )
    recompute = {s * pieces + i for s in instance.recompute for i in range(pieces)}
    return replace(instance, stages=parts, recompute=frozenset(recompute))
