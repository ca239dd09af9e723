"""Memory of a stage's ops: what each leaves behind, and how far it rises meanwhile.

On CUDA from the allocator's counters, on CPU from the allocations and releases that
torch's profiler sees: in both cases bytes as they were asked for, whatever was cached
before. What a transfer brings counts for the op that needs it: the inputs for F, the
gradients of the outputs for I or B.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from schedopt.instance import Backward
from schedopt.measure.sample import Microbatch, StageUnderTest
from schedopt.measure.timing import Action, without_collector
from schedopt.runtimes.measured import split_memory

_LABEL = "schedopt:"
_MEMORY_EVENT = "[memory]"


class Level(NamedTuple):
    """Bytes: level after an op minus before, and the highest minus before."""

    change: int
    peak: int


class StageMemory(NamedTuple):
    """A stage's memory, bytes, as an instance has it.

    ``workspace`` is, by form of the backward, what its ops take beyond the other fields
    while they run; as one op runs at a time, a device needs it once.
    """

    activation: int
    activation_until_input: int
    input_gradient: int
    workspace: Mapping[Backward, int]
    weights_and_gradients: int
    parameters: int


Steps = Mapping[str, tuple[Action, ...]]


def stage_memory(stage: StageUnderTest, device: torch.device) -> StageMemory:
    """Measure a stage that has run before, so that its gradients are there."""
    whole, split = Microbatch(stage), Microbatch(stage)
    steps: Steps = {
        "F": (whole.receive_inputs, whole.forward),
        "B": (whole.receive_gradients, whole.backward),
        "split F": (split.receive_inputs, split.forward),
        "I": (split.receive_gradients, split.backward_input),
        "W": (split.backward_weight,),
    }
    measure = _levels_on_cuda if device.type == "cuda" else _levels_on_cpu
    with without_collector():
        levels = measure(steps, device)
    activation = max(levels["F"].change, 0)
    freed, added = split_memory(activation, *levels["I"])
    forward = levels["F"].peak - activation
    in_whole = max(forward, levels["B"].peak, 0)
    in_split = max(forward, levels["I"].peak - added, levels["W"].peak, 0)
    return StageMemory(
        activation=activation,
        activation_until_input=freed,
        input_gradient=added,
        workspace={
            Backward.WHOLE: in_whole,
            Backward.SPLIT: in_split,
            Backward.CHOOSE: max(in_whole, in_split),
        },
        weights_and_gradients=_held(stage.module),
        parameters=sum(p.numel() for p in stage.module.parameters()),
    )


def _held(module: nn.Module) -> int:
    parameters = list(module.parameters())
    learned = sum(2 * p.nbytes if p.requires_grad else p.nbytes for p in parameters)
    return int(learned + sum(buffer.nbytes for buffer in module.buffers()))


def _levels_on_cuda(steps: Steps, device: torch.device) -> dict[str, Level]:
    levels = {}
    for name, actions in steps.items():
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before, _ = _held_on_cuda(device)
        for action in actions:
            action()
        torch.cuda.synchronize(device)
        after, highest = _held_on_cuda(device)
        levels[name] = Level(after - before, highest - before)
    return levels


def _held_on_cuda(device: torch.device) -> tuple[int, int]:
    """Bytes now, and the most since the peak was reset."""
    # What the allocator gives out beyond what was asked for depends on what it has
    # cached: up to 1 MiB per tensor. Only torch's own allocator tells them apart.
    own = torch.cuda.get_allocator_backend() == "native"
    counter = "requested_bytes" if own else "allocated_bytes"
    counts = torch.cuda.memory_stats(device)
    return counts[f"{counter}.all.current"], counts[f"{counter}.all.peak"]


def _levels_on_cpu(steps: Steps, _device: torch.device) -> dict[str, Level]:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for name, actions in steps.items():
            with record_function(_LABEL + name):
                for action in actions:
                    action()
    inner = profiler.profiler
    results = None if inner is None else inner.kineto_results
    if results is None:
        msg = "torch's profiler recorded nothing"
        raise RuntimeError(msg)
    events = sorted(results.events(), key=lambda event: event.start_ns())
    ranges = {
        event.name().removeprefix(_LABEL): (
            event.start_ns(),
            event.start_ns() + event.duration_ns(),
        )
        for event in events
        if event.name().startswith(_LABEL)
    }
    levels = {}
    for name, (start, end) in ranges.items():
        level = peak = 0
        for event in events:
            if event.name() == _MEMORY_EVENT and start <= event.start_ns() <= end:
                level += event.nbytes()
                peak = max(peak, level)
        levels[name] = Level(level, peak)
    return levels
