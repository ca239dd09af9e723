"""Measuring the stages of a model: which differ, and what each costs."""

from __future__ import annotations

import gc
import platform
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from schedopt.errors import MeasurementError
from schedopt.measure.kfac import LayerKfac, kfac_of
from schedopt.measure.memory import StageMemory, stage_memory
from schedopt.measure.sample import Microbatch, StageUnderTest
from schedopt.measure.timing import Spread, time_ops
from schedopt.measure.user_code import running_user_code

SCATTERED = 0.25
"""A quartile range above this share of the median is worth a warning."""

_WORTH_A_LOOK = 0.01  # share of the stage's time


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure: on what, how often, and whether K-FAC's work too."""

    device: torch.device
    warmup: int
    repetitions: int
    with_kfac: bool = False


@dataclass(frozen=True, slots=True)
class StageProfile:
    """What one stage costs: microseconds by op kind, bytes."""

    name: str
    times: dict[str, Spread]
    memory: StageMemory
    output_bytes: int
    kfac: tuple[LayerKfac, ...]

    @property
    def scattered(self) -> list[str]:
        """The ops whose times scatter much, but for those that do next to nothing."""
        return [kind for kind in self._lasting if self.times[kind].relative > SCATTERED]

    @property
    def launching(self) -> list[str]:
        """The ops for which a GPU waits: the CPU needs longer to launch them."""
        return [kind for kind in self._lasting if self.times[kind].idle > 1 / 2]

    @property
    def _lasting(self) -> list[str]:
        least = _WORTH_A_LOOK * sum(spread.median for spread in self.times.values())
        return [kind for kind, spread in self.times.items() if spread.median > least]


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """What the stages of a model cost; equal stages share one profile."""

    stages: tuple[StageProfile, ...]

    @property
    def distinct(self) -> list[tuple[StageProfile, list[int]]]:
        """Each profile once, with the numbers of the stages that it is of."""
        numbers: dict[int, list[int]] = {}
        for number, stage in enumerate(self.stages):
            numbers.setdefault(id(stage), []).append(number)
        return [(self.stages[found[0]], found) for found in numbers.values()]


def device_of(name: str) -> torch.device:
    """The torch device of a name: ``cpu``, ``cuda`` or ``cuda:1``.

    Raises
    ------
    MeasurementError
        If it is not there, or is of another kind.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        msg = (
            f"--device {name}: must be cpu, cuda or cuda with a number, such as cuda:1"
        )
        raise MeasurementError(msg)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            msg = (
                f"--device {name}: torch sees {count} CUDA devices here; name one of"
                " those, or cpu"
            )
            raise MeasurementError(msg)
        # torch's functions want the number.
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    return device


def describe(device: torch.device) -> str:
    """The device and the versions, for an instance's ``source``."""
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
    return f"{hardware}, torch {torch.__version__}, Python {platform.python_version()}"


def measure_stages(
    keys: Sequence[Hashable],
    make: Callable[[int], StageUnderTest],
    settings: Settings,
) -> ModelProfile:
    """Measure the first stage of each key; stages of equal keys cost the same.

    Raises
    ------
    MeasurementError
        If a stage cannot be run.
    """
    known: dict[Hashable, StageProfile] = {}
    for number, key in enumerate(keys):
        if key not in known:
            with _fitting(f"stage {number}", settings.device):
                stage = make(number)
            known[key] = measure_stage(stage, settings)
            del stage  # or two would have to fit at once
            _give_back(settings.device)
    return ModelProfile(tuple(known[key] for key in keys))


def measure_stage(stage: StageUnderTest, settings: Settings) -> StageProfile:
    """Times, memory and, if wanted, K-FAC's work of one stage."""
    device, warmup, repetitions = settings.device, settings.warmup, settings.repetitions
    kfac: tuple[LayerKfac, ...] = ()
    with (
        running_user_code(f"{stage.name}: cannot be run:"),
        _fitting(stage.name, device),
    ):
        times = time_ops(stage, device, warmup, repetitions)
        memory = stage_memory(stage, device)
        if settings.with_kfac:
            kfac = kfac_of(stage, device, warmup, repetitions)
        microbatch = Microbatch(stage)
        microbatch.receive_inputs()
        microbatch.forward()
    return StageProfile(stage.name, times, memory, microbatch.output_bytes, kfac)


@contextmanager
def _fitting(name: str, device: torch.device) -> Iterator[None]:
    """Where memory runs out, an error that says what to make smaller."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        msg = (
            f"{name}: does not fit on {device}; make the microbatch smaller, or cut the"
            " model into more stages"
        )
        raise MeasurementError(msg) from None


def _give_back(device: torch.device) -> None:
    """Free what a stage has left behind."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
