"""How evenly the stages' work is spread over the devices, and the best that can be."""

from __future__ import annotations

from fractions import Fraction

from schedopt.instance import Backward, Device, Instance, exact


def largest_load(instance: Instance) -> Fraction:
    """The work of the most loaded device for one microbatch, in time units."""
    loads = [Fraction(0)] * len(instance.devices)
    for work, device in zip(_works(instance), instance.device_of_stage, strict=True):
        loads[device] += work / exact(instance.devices[device].speed)
    return max(loads)


def balanced_sizes(instance: Instance) -> tuple[int, ...] | None:
    """How many contiguous stages each device gets, so that the largest load is least.

    Every device gets one at least; None if the stages' static memory does not fit so.
    By dynamic programming: over the devices in order, for each number of stages that
    they hold together, the least largest load. At a tie earlier devices get more.
    """
    works = _sums(_works(instance))
    statics = _sums([exact(stage.static_memory) for stage in instance.stages])
    stages, devices = len(instance.stages), len(instance.devices)
    best = {0: Fraction(0)}
    begins: list[dict[int, int]] = []
    for index, device in enumerate(instance.devices):
        speed, room = exact(device.speed), _room(device)
        row: dict[int, Fraction] = {}
        begins.append({})
        for end in range(index + 1, stages - (devices - index - 1) + 1):
            for begin in range(end - 1, index - 1, -1):
                load = (works[end] - works[begin]) / speed
                full = room is not None and statics[end] - statics[begin] > room
                if full or (end in row and load >= row[end]):
                    break  # further stages only add to it
                if begin not in best:
                    continue
                largest = max(load, best[begin])
                if end not in row or largest < row[end]:
                    row[end] = largest
                    begins[index][end] = begin
        best = row
    if stages not in best:
        return None
    ends = [stages]
    for begin_of in reversed(begins):
        ends.append(begin_of[ends[-1]])
    return tuple(end - begin for begin, end in zip(ends[1:], ends, strict=False))[::-1]


def _room(device: Device) -> Fraction | None:
    """What the device's limit leaves for stages; None if it is unlimited."""
    if device.memory_limit is None:
        return None
    return exact(device.memory_limit) - exact(device.static_memory)


def _works(instance: Instance) -> list[Fraction]:
    """Each stage's work for one microbatch at speed 1."""
    works = []
    for index, stage in enumerate(instance.stages):
        backward = exact(stage.whole_backward or 0)
        if instance.backward is Backward.SPLIT:
            split = (stage.backward_input, stage.backward_weight)
            backward = sum((exact(part or 0) for part in split), Fraction(0))
        work = exact(stage.forward) + backward
        if index in instance.recompute:
            again = stage.forward if stage.recompute is None else stage.recompute
            work += exact(again)
        works.append(work)
    return works


def _sums(values: list[Fraction]) -> list[Fraction]:
    """Of the first 0, 1, ... values."""
    sums = [Fraction(0)]
    for value in values:
        sums.append(sums[-1] + value)
    return sums
