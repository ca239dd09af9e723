"""Made-up instances, as studies of schedules use them: ranges of sizes and memory.

A whole device costs F, I, W = 185, 181, 93 us and 20 MiB of activation, of which I
frees half. ``unequal`` multiplies each stage by 1 + uniform(-0.3, 0.3) from
``random.Random(seed)``, drawn in stage order. With several stages per device each
takes its share of these costs. Times and activations are rounded to whole numbers,
once, ties to the even one; the freed half is rounded up. Uneven limits are multiplied
by factors of the same kind, drawn after those of the stages (seed 0 for uniform stages)
and rounded down to whole MiB.

``zero-bubble`` has equal stages of measured costs: a GPT of 1.5B parameters on 8
devices (Qi et al., "Zero Bubble Pipeline Parallelism", ICLR 2024: the first row of its
table, and its formula for memory in bytes per token and layer), in nanoseconds so that
halves are exact.

A sample takes one combination after the other: the one whose values have been drawn
least often so far, adding up over the lists; of equals the first in an order that
``random.Random(sample_seed)`` has shuffled.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from math import prod
from typing import Any, NamedTuple

from schedopt.experiments.spec_model import MICROBATCHES, UNLIMITED, GeneratorFields
from schedopt.formats.instance_model import INSTANCE_SCHEMA
from schedopt.instance import Backward, Number, Placement, exact

SPREAD = 0.3
MOST_INSTANCES = 100_000


class DeviceCosts(NamedTuple):
    """What a whole device costs.

    Attributes
    ----------
    forward, backward_input, backward_weight : int
        In ``time_unit``, of which a microsecond has ``per_us``.
    activation, until_input : int
        In ``memory_unit``; ``until_input`` is the part that I frees.
    """

    forward: int
    backward_input: int
    backward_weight: int
    time_unit: str
    per_us: int
    activation: int
    until_input: int
    memory_unit: str


MADE_UP = DeviceCosts(185, 181, 93, "us", 1, 20, 10, "MiB")
ZERO_BUBBLE = DeviceCosts(
    18_522_000, 18_086_000, 9_337_000, "ns", 1000, 201_216, 127_488, "B"
)
COSTS = {"uniform": MADE_UP, "unequal": MADE_UP, "zero-bubble": ZERO_BUBBLE}


class Point(NamedTuple):
    """One combination of a range's lists."""

    generator: str
    devices: int
    microbatches: int
    memory: Number | str
    placement: Placement
    stages_per_device: int
    backward: Backward
    latency: Number
    last_stage: Number
    limits: str
    seed: int | None

    @property
    def costs(self) -> DeviceCosts:
        """What a whole device costs."""
        return COSTS[self.generator]

    @property
    def name(self) -> str:
        """Says everything that differs from one stage per device, split backward."""
        shape = ""
        if (self.placement, self.stages_per_device) != (Placement.LINEAR, 1):
            shape = f"-{self.placement.value}{self.stages_per_device}"
        memory = "inf" if self.memory == UNLIMITED else f"{float(self.memory):g}"
        parts = [
            f"{self.generator}{shape}-P{self.devices}-m{self.microbatches}-mem{memory}",
            "" if self.backward is Backward.SPLIT else f"-{self.backward.value}",
            "" if self.latency == 6 else f"-lat{float(self.latency):g}",
            "" if self.last_stage == 1 else f"-last{float(self.last_stage):g}",
            "" if self.limits == "equal" else f"-{self.limits}",
            "" if self.seed is None else f"-s{self.seed}",
        ]
        return "".join(parts)


def count_of(fields: GeneratorFields) -> int:
    """How many combinations a range has."""
    return prod(
        len(values)
        for values in (
            fields.devices,
            fields.microbatches,
            fields.memory,
            fields.placement,
            fields.stages_per_device,
            fields.backward,
            fields.latency,
            fields.last_stage,
            fields.limits,
            fields.seeds,
        )
    )


def microbatches_of(written: int | str, devices: int) -> int:
    """``2P+1`` for so many devices; an integer is itself."""
    if isinstance(written, int):
        return written
    match = MICROBATCHES.fullmatch(written)
    assert match is not None, "checked when the spec was read"
    factor = int(match["factor"] or 1)
    return factor * devices + int(match["constant"] or 0)


def points(fields: GeneratorFields) -> Iterator[Point]:
    """Every combination, the last list running fastest; or a sample in that order."""
    found = _combinations(fields)
    return found if fields.sample is None else iter(_sample(list(found), fields))


def _sample(found: list[Point], fields: GeneratorFields) -> list[Point]:
    """Some of the combinations, with each list's values as evenly as possible."""
    rest = found.copy()
    # Not for secrets: published samples come from this very generator.
    random.Random(fields.sample_seed).shuffle(rest)
    drawn: Counter[tuple[int, object]] = Counter()
    taken: set[Point] = set()
    while rest and len(taken) < (fields.sample or 0):
        point = min(rest, key=lambda p: sum(drawn[item] for item in enumerate(p)))
        rest.remove(point)
        drawn.update(enumerate(point))
        taken.add(point)
    return [point for point in found if point in taken]


def _combinations(fields: GeneratorFields) -> Iterator[Point]:
    seeds: list[int | None] = (
        [*fields.seeds] if fields.generator == "unequal" else [None]
    )
    for devices, written in product(fields.devices, fields.microbatches):
        for rest in product(
            fields.placement,
            fields.stages_per_device,
            fields.backward,
            fields.latency,
            fields.memory,
            fields.last_stage,
            fields.limits,
            seeds,
        ):
            placement, chunks, backward, latency, memory, last, limits, seed = rest
            yield Point(
                generator=fields.generator,
                devices=devices,
                microbatches=microbatches_of(written, devices),
                memory=memory,
                placement=placement,
                stages_per_device=chunks,
                backward=backward,
                latency=latency,
                last_stage=last,
                limits=limits,
                seed=seed,
            )


def document_of(point: Point) -> dict[str, Any]:
    """The instance document of a combination."""
    factors, limit_factors = _factors(point)
    times = [1.0] * (len(factors) - 1) + [point.last_stage]
    document: dict[str, Any] = {
        "schema": INSTANCE_SCHEMA,
        "name": point.name,
        "source": "made up by schedopt.experiments.generate",
        "time_unit": point.costs.time_unit,
        "memory_unit": point.costs.memory_unit,
        "microbatches": point.microbatches,
        "devices": point.devices,
        "placement": point.placement.value,
        "backward": point.backward.value,
        "communication": {
            "mode": "lag",
            "latency": _number(exact(point.latency) * point.costs.per_us),
        },
        "stages": [
            _stage(factor, time, point)
            for factor, time in zip(factors, times, strict=True)
        ],
    }
    if point.memory != UNLIMITED:
        assert not isinstance(point.memory, str), "checked when the spec was read"
        limit = exact(point.memory) * point.devices * point.costs.activation
        document["memory_limit"] = _number(limit)
        if point.limits == "uneven":
            del document["memory_limit"]
            document["devices"] = [
                {"name": f"device {index}", "memory_limit": int(float(limit) * factor)}
                for index, factor in enumerate(limit_factors)
            ]
    return document


def _factors(point: Point) -> tuple[list[float], list[float]]:
    """Those of the stages, and those of the devices' limits."""
    stages = point.devices * point.stages_per_device
    # Not for secrets: the published factors come from this very generator.
    draw = random.Random(point.seed or 0)
    factors = [1.0] * stages
    if point.seed is not None:
        factors = [1 + draw.uniform(-SPREAD, SPREAD) for _ in range(stages)]
    return factors, [1 + draw.uniform(-SPREAD, SPREAD) for _ in range(point.devices)]


def _stage(factor: float, time: float, point: Point) -> dict[str, Number]:
    """A stage's costs; ``time`` multiplies its times only."""
    costs = point.costs
    activation = _share(costs.activation, factor, point)
    until_input = 0
    if point.backward is not Backward.WHOLE:
        until_input = -(-activation * costs.until_input // costs.activation)
    stage: dict[str, Number] = {
        "forward": _share(costs.forward, factor * time, point),
        "backward_input": _share(costs.backward_input, factor * time, point),
        "backward_weight": _share(costs.backward_weight, factor * time, point),
        "activation": activation,
    }
    return stage | ({"activation_until_input": until_input} if until_input else {})


def _share(cost: int, factor: float, point: Point) -> int:
    return round(cost * factor / point.stages_per_device)


def _number(value: Fraction) -> Number:
    return value.numerator if value.denominator == 1 else float(value)
