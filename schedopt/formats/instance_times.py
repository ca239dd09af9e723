"""Whether the times of an instance can be computed with, and stored, exactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

from schedopt.formats.complaints import Complaint, show
from schedopt.formats.instance_model import InstanceFields, StageFields
from schedopt.formats.instance_shape import copy_count, written_stages
from schedopt.formats.kfac_model import KfacFields
from schedopt.instance import Inversion, Number, exact

# Solvers count ticks in 64 bits, with room for sums.
_MOST_TICKS = 2**62
# Below this a time in the user's unit, stored as a float, reads back to the same tick.
_MOST_STORED_TICKS = 2**51

_SECONDS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


class _Work(NamedTuple):
    """Ops of equal duration, and how many of them follow each other at most."""

    duration: Fraction
    times: int


def time_complaints(fields: InstanceFields) -> Iterator[Complaint]:
    """A resolution too fine for a schedule as long as this one may be."""
    works = (
        *_of_a_microbatch(fields),
        *_of_all_microbatches(fields),
        *_moves(fields),
    )
    whole = (
        all(work.duration.denominator == 1 for work in works)
        and all(exact(scale).denominator == 1 for scale in fields.microbatch_scale)
        and all(speed == 1 for speed in _speeds(fields))
    )
    most = _MOST_TICKS if whole else _MOST_STORED_TICKS
    total = longest_time(fields)
    if total >= most * exact(fields.resolution):
        # A float ends at about 1e308; nothing near it needs to be told apart.
        shown = float(min(total, Fraction(10**300)))
        yield Complaint(
            ("resolution",),
            show(fields.resolution),
            f"is too fine for work that takes up to {shown:.3g}"
            f" {fields.time_unit}; choose a coarser one, or a larger time_unit",
        )


def longest_time(fields: InstanceFields) -> Fraction:
    """All work and all transfers, one after the other, in time units."""
    scales = [exact(scale) for scale in fields.microbatch_scale]
    microbatches = sum(scales) if scales else fields.microbatches
    work = _total(_of_a_microbatch(fields)) * microbatches
    work += _total(_of_all_microbatches(fields))
    return work / min(_speeds(fields)) + _total(_moves(fields))


def _total(works: Iterable[_Work]) -> Fraction:
    return sum((work.duration * work.times for work in works), Fraction(0))


def _of_a_microbatch(fields: InstanceFields) -> Iterator[_Work]:
    """What a microbatch computes, in the longest forms."""
    for _, stage, count in written_stages(fields):
        for duration in _times(fields, stage):
            yield _Work(duration, count * fields.steps)
        if fields.kfac is not None:
            for module in stage.modules:
                layers = count * module.count * fields.kfac.refreshes
                yield _Work(exact(module.curvature_a), layers)
                yield _Work(exact(module.curvature_b), layers)


def _times(fields: InstanceFields, stage: StageFields) -> Iterator[Fraction]:
    yield exact(stage.forward)
    yield max(
        exact(stage.backward or 0),
        exact(stage.backward_input or 0) + exact(stage.backward_weight or 0),
    )
    if fields.recompute not in ("none", []):
        yield exact(stage.forward if stage.recompute is None else stage.recompute)
    if stage.overlap is not None:
        yield exact(stage.overlap)


def _of_all_microbatches(fields: InstanceFields) -> Iterator[_Work]:
    """What the copies of a stage compute once a step, or once a refresh."""
    copies, kfac = copy_count(fields), fields.kfac
    for _, stage, count in written_stages(fields):
        steps = count * fields.steps * copies
        if fields.steps > 1 or kfac is not None:
            yield _Work(exact(stage.optimizer_step), steps)
        if kfac is None:
            continue
        every = copies * kfac.replicas
        yield _Work(exact(stage.precondition) / every, steps)
        owners = every if kfac.inversion is Inversion.HALVED else kfac.replicas
        for module in stage.modules:
            layers = count * module.count * kfac.refreshes * copies
            yield _Work(exact(module.inversion_a) / owners, layers)
            yield _Work(exact(module.inversion_b) / owners, layers)


def _moves(fields: InstanceFields) -> Iterator[_Work]:
    """Transfers and collectives, on the slowest links."""
    communication, kfac = fields.communication, fields.kfac
    links = {(link.latency, link.bandwidth) for link in communication.links}
    links.add((communication.latency, communication.bandwidth))
    for _, stage, count in written_stages(fields):
        steps = count * fields.steps
        longest = max(_transfer(fields, stage, *link) for link in links)
        yield _Work(longest, 2 * steps * fields.microbatches)
        if kfac is None or copy_count(fields) * kfac.replicas == 1:
            continue
        gradients = exact(stage.gradient_bytes)
        yield _Work(_collective(fields, kfac, gradients), 2 * steps)
        for module in stage.modules:
            layers = count * module.count * kfac.refreshes
            for size in (module.factor_a, module.factor_b):
                # Twice: where all copies need the whole factor, it goes round twice.
                moved = 2 * exact(size) * _BYTES[fields.memory_unit]
                yield _Work(_collective(fields, kfac, moved), layers)


def _transfer(
    fields: InstanceFields,
    stage: StageFields,
    latency: Number | None,
    bandwidth: Number | None,
) -> Fraction:
    """Time of sending a stage's output, or its gradient back."""
    general = fields.communication
    time = exact(general.latency if latency is None else latency)
    rate = general.bandwidth if bandwidth is None else bandwidth
    if rate is not None:
        seconds = exact(stage.output_bytes) / exact(rate)
        time += seconds * _SECONDS[fields.time_unit]
    return time


def _collective(fields: InstanceFields, kfac: KfacFields, size: Fraction) -> Fraction:
    """Time in which so many bytes go round once between all copies of a stage."""
    copies = copy_count(fields) * kfac.replicas
    time = exact(kfac.latency)
    if kfac.bandwidth is not None:
        seconds = size * (copies - 1) / copies / exact(kfac.bandwidth)
        time += seconds * _SECONDS[fields.time_unit]
    return time


def _speeds(fields: InstanceFields) -> list[Fraction]:
    if isinstance(fields.devices, int):
        return [Fraction(1)]
    return [exact(device.speed) for device in fields.devices]
