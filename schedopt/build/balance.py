"""How evenly the stages' work is spread over the devices, and the best that can be.

All that a device computes in the op graph counts, as its sum is a lower bound on the
makespan: also second-order work, in so far as the instance unrolls it (``refreshes`` in
``steps``), and the end of each step. Preconditioning and inversion of a stage are one
replica's share.
"""

from __future__ import annotations

from fractions import Fraction

from schedopt.instance import Backward, Device, Instance, Kfac, StageCost, exact


def largest_load(instance: Instance) -> Fraction:
    """The work of the most loaded device, in time units.

    All work of the steps, spread over their microbatches (of scale 1).
    """
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
    statics = _sums([_static(stage, instance.kfac) for stage in instance.stages])
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


def _static(stage: StageCost, kfac: Kfac | None) -> Fraction:
    """What a stage holds all the time: with K-FAC factors and inverses too."""
    modules = stage.modules if kfac is not None else ()
    factors = [m.count * (exact(m.factor_a) + exact(m.factor_b)) for m in modules]
    return exact(stage.static_memory) + 2 * sum(factors, Fraction(0))


def _works(instance: Instance) -> list[Fraction]:
    """Each stage's work at speed 1, spread over the microbatches of all steps."""
    works = []
    scales = instance.microbatch_scale or (1,) * instance.microbatches
    microbatches = sum(map(exact, scales), Fraction(0))
    for index, stage in enumerate(instance.stages):
        backward = exact(stage.whole_backward or 0)
        if instance.backward is Backward.SPLIT:
            split = (stage.backward_input, stage.backward_weight)
            backward = sum((exact(part or 0) for part in split), Fraction(0))
        work = exact(stage.forward) + backward
        if index in instance.recompute:
            again = stage.forward if stage.recompute is None else stage.recompute
            work += exact(again)
        works.append(work + _work_beside(stage, instance, microbatches))
    return works


def _work_beside(
    stage: StageCost, instance: Instance, microbatches: Fraction
) -> Fraction:
    """What a stage computes beside the pipeline's work, for one of its microbatches."""
    kfac = instance.kfac
    if kfac is None:
        of_a_step = exact(stage.optimizer_step) if instance.steps > 1 else Fraction(0)
        return of_a_step / microbatches
    of_a_step = exact(stage.optimizer_step) + exact(stage.precondition) / kfac.replicas
    curvature = inversion = Fraction(0)
    for module in stage.modules:
        shares = exact(module.curvature_a) + exact(module.curvature_b)
        inversions = exact(module.inversion_a) + exact(module.inversion_b)
        curvature += module.count * shares
        inversion += module.count * inversions / kfac.replicas
    refreshes = Fraction(kfac.refreshes, instance.steps)
    of_a_step += refreshes * inversion
    return of_a_step / microbatches + refreshes * curvature


def _sums(values: list[Fraction]) -> list[Fraction]:
    """Of the first 0, 1, ... values."""
    sums = [Fraction(0)]
    for value in values:
        sums.append(sums[-1] + value)
    return sums
