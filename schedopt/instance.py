"""The instance: what a pipeline costs, as the user wrote it, complete and checked.

Numbers are in the user's units (``time_unit``, ``memory_unit``); they become integers
once, when an op graph is built. What the model leaves out: a device computes one op at
a time at a speed that does not depend on what its links do, and durations are certain.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction

Number = int | float


def exact(value: Number) -> Fraction:
    """The decimal number that the user wrote."""
    return Fraction(value) if isinstance(value, int) else Fraction(repr(value))


class Backward(StrEnum):
    """How a stage's backward is run.

    ``whole``: one op B, whose gradient leaves at its end. ``split``: I for the input's
    gradient, which leaves at I's end, and W for the weights. ``choose``: either, per
    stage and microbatch.
    """

    WHOLE = "whole"
    SPLIT = "split"
    CHOOSE = "choose"


class Placement(StrEnum):
    """On which device each stage lives; ``explicit`` lists them.

    With P devices and S stages, ``linear`` puts contiguous stages on a device (the
    first S mod P devices get one more), ``looped`` puts stage k on device k mod P,
    ``v`` runs k mod P on even passes and P-1-k mod P on odd ones, and ``bidirectional``
    (S = P) runs even microbatches down (stage s on device s) and odd ones up (stage s
    on device P-1-s).
    """

    LINEAR = "linear"
    LOOPED = "looped"
    V = "v"
    BIDIRECTIONAL = "bidirectional"
    EXPLICIT = "explicit"


def place(placement: Placement, stages: int, devices: int) -> tuple[int, ...]:
    """The device of each stage under a named placement; on the way down if two-way."""
    match placement:
        case Placement.LINEAR:
            share, longer = divmod(stages, devices)
            sizes = [share + (device < longer) for device in range(devices)]
            return tuple(d for d, size in enumerate(sizes) for _ in range(size))
        case Placement.LOOPED:
            return tuple(stage % devices for stage in range(stages))
        case Placement.V:
            zigzag = [*range(devices), *reversed(range(devices))]
            return tuple(zigzag[stage % len(zigzag)] for stage in range(stages))
        case Placement.BIDIRECTIONAL:
            return tuple(range(stages))
        case Placement.EXPLICIT:
            msg = "an explicit placement lists its devices"
            raise ValueError(msg)


class CommunicationMode(StrEnum):
    """What a transfer occupies.

    ``lag``: nothing, it only takes time. ``link``: the directed link, on which
    transfers queue. ``blocking``: the compute streams of both ends.
    """

    LAG = "lag"
    LINK = "link"
    BLOCKING = "blocking"


class Objective(StrEnum):
    """What is minimised; see ``schedopt.schedule``, ``steady`` and ``refresh``.

    The period is a measure of a periodic schedule, the refresh one of second-order work
    in the gaps of a step that repeats; a finite schedule has neither.
    """

    MAKESPAN = "makespan"
    DEVICE_SPAN = "device-span"
    PERIOD = "period"
    REFRESH = "refresh"

    @property
    def of_finite(self) -> Objective:
        """What finite schedules are measured by: itself, or the makespan."""
        has_none = self in (Objective.PERIOD, Objective.REFRESH)
        return Objective.MAKESPAN if has_none else self


FINITE_OBJECTIVES = tuple(o for o in Objective if o.of_finite is o)
"""The objectives that measure a finite schedule."""


class Inversion(StrEnum):
    """How the two devices that hold copies of a stage share its inversions.

    ``halved``: both run every inversion, each for half its duration. ``whole``: one of
    them runs it, which the optimizer chooses. With one copy there is nothing to share.
    """

    HALVED = "halved"
    WHOLE = "whole"


class StepBarrier(StrEnum):
    """What the end of a training step waits for.

    ``device``: a stage is preconditioned once its own gradients are complete.
    ``everyone``: once those of all stages are, as clipping by the global norm needs.
    """

    DEVICE = "device"
    EVERYONE = "everyone"


class FactorBarrier(StrEnum):
    """What the reduction of a factor over its copies waits for, and its inversion.

    ``factor``: the curvature of its own factor. ``device``: that of all factors of the
    same side on its device, as in PipeFisher's implementation.
    """

    FACTOR = "factor"
    DEVICE = "device"


def layer_name(module: str, count: int, number: int) -> str:
    """What ops call one of the ``count`` layers of a module: ``ffn``, or ``ffn.1``."""
    return module if count == 1 else f"{module}.{number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KfacModule:
    """``count`` equal linear layers of a stage that K-FAC preconditions.

    Every layer has two Kronecker factors: A of its inputs and B of the gradients of its
    outputs. Costs are those of one layer.

    Attributes
    ----------
    curvature_a, curvature_b : number
        Duration of a microbatch's share of each factor.
    inversion_a, inversion_b : number
        Duration of each factor's inversion.
    saved_input, saved_gradient : number
        Memory of a microbatch's inputs and output gradients, which wait for their
        curvature; the inputs are a part of the stage's ``activation``.
    factor_a, factor_b : number
        Memory of each factor; its inverse takes as much.
    """

    name: str
    count: int = 1
    curvature_a: Number
    curvature_b: Number
    inversion_a: Number
    inversion_b: Number
    saved_input: Number = 0
    saved_gradient: Number = 0
    factor_a: Number = 0
    factor_b: Number = 0

    @property
    def layers(self) -> tuple[str, ...]:
        """What ops call the layers, in order."""
        numbers = range(self.count)
        return tuple(layer_name(self.name, self.count, number) for number in numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kfac:
    """Second-order work: curvature, inversion and preconditioning of the modules.

    ``interval`` is the number of steps from one refresh of the curvature to the next,
    ``refreshes`` how many of them are unrolled. Each of ``replicas`` data-parallel
    copies of the pipeline does its equal share of every inversion and of the
    preconditioning. A collective between n copies takes ``latency`` + 2 (n - 1) / n x
    bytes / ``bandwidth`` where all get all that is reduced (a ring's all-reduce), half
    of the bytes' time where each gets a share or one gets all.
    """

    interval: int = 1
    refreshes: int = 1
    inversion: Inversion = Inversion.HALVED
    step_barrier: StepBarrier = StepBarrier.EVERYONE
    factor_barrier: FactorBarrier = FactorBarrier.FACTOR
    replicas: int = 1
    latency: Number = 0
    bandwidth: Number | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """Costs of one stage for one microbatch at speed 1.

    Attributes
    ----------
    forward, backward, backward_input, backward_weight : number
        Durations of F, B, I and W; those that the instance's ``backward`` does not need
        may be None.
    activation : number
        Memory alive from F's start to the end of W (or B).
    activation_until_input : number
        The part of ``activation`` that is freed already at the end of I.
    input_gradient : number
        Memory alive from I's start to the end of W.
    static_memory : number
        Weights, gradients, optimizer state.
    output_bytes : number
        Bytes that F sends to the next stage, and the next stage's backward returns.
    recompute : number or None
        Duration of R; None means that of F.
    checkpoint : number or None
        Memory kept from F to R where the stage is recomputed; None means the size of
        the stage's input (the previous stage's ``output_bytes``; 0 for stage 0).
    overlap : number or None
        Duration of one F and one whole backward of different microbatches run as one
        op; None where they cannot be.
    parts : tuple of StageCost
        How the stage is cut where a schedule needs several stages per device; empty
        means equal parts.
    modules : tuple of KfacModule
        What K-FAC preconditions.
    precondition : number
        Duration of preconditioning the stage's gradients, once a step.
    optimizer_step : number
        Duration of the optimizer's step.
    gradient_bytes : number
        Size of the stage's gradients, which its copies reduce and gather once a step.
    """

    forward: Number
    backward: Number | None = None
    backward_input: Number | None = None
    backward_weight: Number | None = None
    activation: Number = 0
    activation_until_input: Number = 0
    input_gradient: Number = 0
    static_memory: Number = 0
    output_bytes: Number = 0
    recompute: Number | None = None
    checkpoint: Number | None = None
    overlap: Number | None = None
    parts: tuple[StageCost, ...] = ()
    modules: tuple[KfacModule, ...] = ()
    precondition: Number = 0
    optimizer_step: Number = 0
    gradient_bytes: Number = 0

    @property
    def whole_backward(self) -> Number | None:
        """Duration of B: as given, else that of I and W together."""
        if self.backward is not None:
            return self.backward
        if self.backward_input is None or self.backward_weight is None:
            return None
        return self.backward_input + self.backward_weight

    @property
    def can_split(self) -> bool:
        """Whether the durations of I and W are known."""
        return self.backward_input is not None and self.backward_weight is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """An accelerator: durations are divided by ``speed``; no limit means unlimited."""

    name: str
    memory_limit: Number | None = None
    static_memory: Number = 0
    speed: Number = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A directed link whose latency or bandwidth differs from the instance's."""

    source: int
    target: int
    latency: Number | None = None
    bandwidth: Number | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Communication:
    """How long a transfer takes: latency + bytes / bandwidth.

    ``latency`` is in time units, ``bandwidth`` in bytes per second (None: bytes cost
    nothing). With ``transfer_buffers`` a transfer holds ``output_bytes`` on the sender
    from the start of the op that made the data to its own end, and on the receiver from
    its own start to the end of the op that uses the data.
    """

    mode: CommunicationMode = CommunicationMode.LAG
    latency: Number = 0
    bandwidth: Number | None = None
    links: tuple[Link, ...] = ()
    transfer_buffers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A pipeline to schedule; every default is filled in.

    ``device_of_stage`` holds the stage's device for every placement but
    ``bidirectional``, where it is the device on the way down. ``recompute`` is the set
    of stages whose forward is run again before the backward. ``microbatch_scale``
    multiplies the durations of each microbatch. ``resolution`` is the length of a tick
    in time units and of a grain in memory units. ``runtime`` names the runtime
    (``schedopt.runtimes``) whose rules every schedule must keep; empty means none.
    ``steps`` training steps are unrolled; with ``kfac`` their second-order work too.
    """

    name: str
    stages: tuple[StageCost, ...]
    devices: tuple[Device, ...]
    microbatches: int
    placement: Placement
    device_of_stage: tuple[int, ...]
    backward: Backward
    communication: Communication = field(default_factory=Communication)
    recompute: frozenset[int] = frozenset()
    microbatch_scale: tuple[Number, ...] = ()
    time_unit: str = "us"
    memory_unit: str = "MiB"
    resolution: Number = 1e-6
    objective: Objective = Objective.MAKESPAN
    source: str = ""
    runtime: str = ""
    steps: int = 1
    kfac: Kfac | None = None

    def device_of(self, stage: int, microbatch: int) -> int:
        """The device on which ``stage`` handles ``microbatch``."""
        if self.placement is Placement.BIDIRECTIONAL and microbatch % 2:
            return len(self.devices) - 1 - stage
        return self.device_of_stage[stage]

    def copies_of(self, stage: int) -> tuple[int, ...]:
        """The devices that hold ``stage``: one, or two if the pipeline is two-way."""
        return tuple(dict.fromkeys(self.device_of(stage, copy) for copy in (0, 1)))

    def stages_of(self, device: int) -> tuple[int, ...]:
        """The stages whose weights ``device`` holds, in model order."""
        stages = {s for s, d in enumerate(self.device_of_stage) if d == device}
        if self.placement is Placement.BIDIRECTIONAL:
            stages.add(len(self.devices) - 1 - device)
        return tuple(sorted(stages))
