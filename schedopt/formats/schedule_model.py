"""The schedule format, version 1: its fields, each with meaning, unit and default."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any

from schedopt.formats import values
from schedopt.formats.amounts import (
    MEMORY,
    TIME,
    Count,
    Index,
    Name,
    Source,
)
from schedopt.formats.instance_file import instance_of
from schedopt.formats.instance_model import InstanceFields
from schedopt.formats.model import Strict, field, json_schema
from schedopt.instance import Instance, Number, Objective
from schedopt.ops import Op, OpKind

SCHEDULE_SCHEMA = "schedopt/schedule/v1"
STATUSES = ("optimal", "feasible", "infeasible", "unknown")

# Sums of many amounts, each of which the instance format bounds.
_total = values.number(most=10**30)
_gap = values.number(most=1).or_null()
# Negative where ops overlap: that is for the verifier to say, more clearly.
_share = values.number(least=None, most=1)
_seed = values.whole(0, 2**63 - 1).or_null()
_digest = values.hexadecimal(64)
_schema = values.word((SCHEDULE_SCHEMA,))
_status = values.word(STATUSES)
_objective = values.word(Objective)
_kind = values.word(OpKind)

Total = Annotated[Number, _total.validator, _total.json_schema]
OptionalTotal = Annotated[
    Number | None, _total.or_null().validator, _total.or_null().json_schema
]
Share = Annotated[float, _share.validator, _share.json_schema]
Gap = Annotated[float | None, _gap.validator, _gap.json_schema]
Digest = Annotated[str, _digest.validator, _digest.json_schema]
Seed = Annotated[int | None, _seed.validator, _seed.json_schema]


class EmbeddedInstanceFields(InstanceFields):
    """The instance that was scheduled: every field of that format, and its hash."""

    sha256: Digest = field(
        "hash of the instance without its name and source; finds accidental changes"
    )


class BubbleRatioFields(Strict):
    """Idle share of the compute time: 1 - work / (devices x T)."""

    makespan: Share = field("with T = makespan")
    device_span: Share = field("with T = device span")


class SteadyFields(Strict):
    """A periodic schedule: the ops of one cycle, which repeats."""

    cycle: Total = field("length of a cycle", unit=TIME)
    microbatches: Count = field("microbatches of a cycle", unit="microbatches")
    starts: dict[Name, Total] = field(
        "for each op of microbatches 0 to `microbatches` - 1 its start; the same ops"
        " of the next cycle start `cycle` later",
        unit=TIME,
    )


class TraceFields(Strict):
    """A moment at which the value or the bound improved."""

    seconds: Total = field("since the start", unit="seconds")
    value: OptionalTotal = field("best value so far", unit=TIME, default=None)
    bound: OptionalTotal = field("best lower bound so far", unit=TIME, default=None)
    member: Source = field("which part of the solver improved it", default="")


class OpFields(Strict):
    """One op and when it runs."""

    op: Name = field("short notation: `[step@]<stage><KIND><microbatch>[:part]`")
    kind: Annotated[OpKind, _kind.validator, _kind.json_schema] = field(
        "what the op does"
    )
    stage: Index = field("its stage", unit="stage number")
    microbatch: Index = field(
        "its microbatch; of work that belongs to none, the copy of the stage that does"
        " it: 0, or 1 on the way up of a bidirectional pipeline",
        unit="microbatch number",
    )
    step: Index = field("its training step", unit="step number", default=0)
    device: Index = field("the device it belongs to", unit="device number")
    streams: list[Name] = field(
        "the streams it holds: compute (its device's own), compute@3, p2p@2>3"
    )
    start: Total = field("when it starts", unit=TIME)
    end: Total = field("when it ends", unit=TIME)
    part: Source = field("which of several such ops; part of the notation", default="")
    alternative: Source = field(
        "the alternative whose choice made it present; empty if it always is",
        default="",
    )

    @property
    def named(self) -> Op:
        """The op that the row's fields name."""
        return Op(self.kind, self.stage, self.microbatch, self.step, self.part)


class ScheduleFile(Strict):
    """What the tool writes: an instance, a schedule of it, and what is known of it.

    ``embedded`` holds the instance's fields as the file gives them, ``instance`` what
    they describe.
    """

    schema_: Annotated[str, _schema.validator, _schema.json_schema] = field(
        "name and version of the format", alias="schema"
    )
    embedded: EmbeddedInstanceFields = field(
        "the whole instance, and its hash in sha256", alias="instance"
    )
    method: Source = field("what made the schedule")
    status: Annotated[str, _status.validator, _status.json_schema] = field(
        "optimal (value = lower_bound), feasible, infeasible (there is no schedule) or"
        " unknown (none was found)"
    )
    objective: Annotated[Objective, _objective.validator, _objective.json_schema] = (
        field("what was minimised")
    )
    value: OptionalTotal = field(
        "of the objective; null without a schedule", unit=TIME, default=None
    )
    lower_bound: OptionalTotal = field(
        "no schedule has a smaller value; null if nothing is known",
        unit=TIME,
        default=None,
    )
    gap: Gap = field("(value - lower_bound) / value", default=None)
    makespan: OptionalTotal = field(
        "last end of all ops minus first start", unit=TIME, default=None
    )
    device_span: OptionalTotal = field(
        "the longest last end minus first start on one device's compute stream",
        unit=TIME,
        default=None,
    )
    bubble_ratio: BubbleRatioFields | None = field(
        "idle share of the compute time", default=None
    )
    peak_memory: list[Total] = field(
        "highest level of each device's memory, static memory included",
        unit=MEMORY,
        default=[],
    )
    wall_seconds: OptionalTotal = field(
        "time that solving took; null in reproducible mode",
        unit="seconds",
        default=None,
    )
    seed: Seed = field("seed of every random choice", default=None)
    versions: dict[Name, Source] = field(
        "version of each program that took part", default={}
    )
    reason: Source = field(
        "why there is no schedule, or what else a person should know", default=""
    )
    trace: list[TraceFields] = field("how value and bound improved", default=[])
    memory_edges: list[list[Name]] = field(
        "pairs of ops [releasing, waiting]: the second waits for the memory that the"
        " first frees",
        default=[],
    )
    steady: SteadyFields | None = field(
        "the periodic schedule whose period is the value; absent for other objectives",
        default=None,
    )
    ops: list[OpFields] = field("every op with its times; empty without a schedule")

    @cached_property
    def instance(self) -> Instance:
        """The instance that was scheduled."""
        return instance_of(self.embedded)


def schedule_schema() -> dict[str, Any]:
    """The JSON Schema of the schedule format."""
    return json_schema(ScheduleFile)
