"""The fields of a spec, each with its meaning and default."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import PlainValidator, Tag

from schedopt.formats import values
from schedopt.formats.model import LIST, MAPPING, ONE, Strict, by_shape, field
from schedopt.instance import Backward, Number, Objective, Placement
from schedopt.refresh.settings import Minimise

SPEC_SCHEMA = "schedopt/experiment/v1"
UNLIMITED = "unlimited"
REFRESH = "refresh"  # the method that the section of this name is of
SHORTEST = "shortest"

# Microbatches as a multiple of the devices plus a constant: P, 2P, 3P+1, P-1.
MICROBATCHES = re.compile(r"(?P<factor>[0-9]{0,6})P(?P<constant>[+-][0-9]{1,6})?")

_count = values.whole(1)
_stages_per_device = values.whole(1, 64)
_seed = values.whole(0, 2**31 - 1)
_parallel = values.whole(1, 4096)
_amount = values.number()
_seconds = values.number(positive=True)
_name = values.text(least=1)
_objective = values.word(Objective).or_null()
_placement = values.word(tuple(p for p in Placement if p is not Placement.EXPLICIT))
_backward = values.word(Backward)
_generator = values.word(("uniform", "unequal", "zero-bubble"))
_limits = values.word(("equal", "uneven"))
_minimise = values.word(Minimise)
_wrap = values.flag()
_schedules = values.word(("none", "small", "all"))


def _microbatches(value: object) -> object:
    if isinstance(value, str):
        if MICROBATCHES.fullmatch(value) is None:
            rule = "must be a whole number, or such as 2P or 3P+1 (P: devices)"
            raise values.broken(rule)
        return value
    return _count.check(value)


def _memory(value: object) -> object:
    if isinstance(value, str) and value == UNLIMITED:
        return value
    return _amount.check(value)


Count = Annotated[int, _count.validator]
StagesPerDevice = Annotated[int, _stages_per_device.validator]
Seed = Annotated[int, _seed.validator]
Parallel = Annotated[int, _parallel.validator]
Amount = Annotated[Number, _amount.validator]
Seconds = Annotated[Number, _seconds.validator]
Name = Annotated[str, _name.validator]
Microbatches = Annotated[int | str, PlainValidator(_microbatches)]
Memory = Annotated[Number | str, PlainValidator(_memory)]


class GeneratorFields(Strict):
    """A range of made-up instances: every combination of the lists."""

    generator: Annotated[str, _generator.validator] = field(
        "uniform (all stages cost the same), unequal (a random factor per stage) or"
        " zero-bubble (equal stages of that paper's costs)"
    )
    devices: list[Count] = field("numbers of devices, P")
    microbatches: list[Microbatches] = field("numbers of microbatches, or 2P, 3P+1")
    memory: list[Memory] = field(
        "memory limits as multiples of P activations of a device's stages; or"
        f" {UNLIMITED}",
        default=[1],
    )
    placement: list[Annotated[Placement, _placement.validator]] = field(
        "placements", default=[Placement.LINEAR]
    )
    stages_per_device: list[StagesPerDevice] = field(
        "stages on each device", default=[1]
    )
    backward: list[Annotated[Backward, _backward.validator]] = field(
        "forms of the backward", default=[Backward.SPLIT]
    )
    latency: list[Amount] = field("latencies of a transfer", unit="us", default=[6])
    last_stage: list[Amount] = field(
        "times of the last stage, as multiples of what they would be", default=[1]
    )
    limits: list[Annotated[str, _limits.validator]] = field(
        "equal, or uneven (a random factor per device)", default=["equal"]
    )
    seeds: list[Seed] = field("seeds of the random factors", default=[0])
    sample: Count | None = field(
        "how many of the combinations to draw, each list's values as evenly as"
        " possible; absent means all",
        default=None,
    )
    sample_seed: Seed = field("seed of the draw", default=0)


class InstancesFields(Strict):
    """What to run on."""

    files: list[Name] = field(
        "instance files or patterns such as *.yaml, relative to the spec's folder, or"
        " else to the working directory",
        default=[],
    )
    generate: list[GeneratorFields] = field("ranges of made-up instances", default=[])


class RefreshFields(Strict):
    """How the method refresh packs: every combination of the lists is a run."""

    minimise: list[Annotated[Minimise, _minimise.validator]] = field(
        "what comes first: age, k or memory", default=[Minimise.AGE]
    )
    wrap: list[Annotated[bool, _wrap.validator]] = field(
        "whether work may use the next cycle's gaps", default=[False]
    )
    pipeline: list[Name] = field(
        "hand-made schedules whose gaps are used, each for itself; or"
        f" {SHORTEST}: the best of those whose step is the shortest",
        default=[SHORTEST],
    )


class LimitsFields(Strict):
    """When a run is ended from outside."""

    memory_mib: Count = field("memory of all processes of a run", default=4096)
    grace_s: Seconds = field(
        "time that a run may take beyond time_limit_s before it is killed", default=10
    )


class SpecFields(Strict):
    """A batch of runs: every method on every instance."""

    schema_: Literal["schedopt/experiment/v1"] = field(
        "name and version of the format", alias="schema", default=SPEC_SCHEMA
    )
    name: Name = field("what the batch is called")
    instances: Annotated[
        Annotated[list[Name], Tag(LIST)] | Annotated[InstancesFields, Tag(MAPPING)],
        by_shape("must be a list of files, or files and generate", LIST, MAPPING),
    ] = field("what to run on: a list of files, or files and generate")
    methods: Annotated[
        Annotated[list[Name], Tag(LIST)] | Annotated[Name, Tag(ONE)],
        by_shape("must be a method or a list of methods", LIST, ONE),
    ] = field("solve, refresh, names of baselines, or baselines for all of them")
    time_limit_s: Seconds = field("wall time of a run", unit="s", default=60)
    workers: Parallel = field("busy processes of a run", default=1)
    seeds: list[Seed] = field(
        "seeds; each gives a run of methods that use one", default=[0]
    )
    objective: Annotated[Objective | None, _objective.validator] = field(
        "what is minimised; absent means each instance's own", default=None
    )
    parallel: Annotated[int | None, values.whole(1, 4096).or_null().validator] = field(
        "runs at once; absent means as many as the cores allow", default=None
    )
    refresh: RefreshFields | None = field(
        "how the method refresh packs; absent means by age in the shortest pipelines",
        default=None,
    )
    limits: LimitsFields = field(
        "when a run is ended from outside", default_factory=LimitsFields
    )
    schedules: Annotated[str, _schedules.validator] = field(
        "which schedules to keep: none, small (up to 2000 ops) or all", default="small"
    )
