"""Rows of a training with K-FAC for torch: one set per step, and slots in them.

torch's runtime has no token for K-FAC. But with listed transfers (``compute_comms``) a
token ``<stage>UNSHARD<number>`` runs whatever function is registered for ``UNSHARD``,
exactly where it stands (torch 2.13, ``_PipelineScheduleRuntime._step_microbatches`` and
``register_custom_function``; read, and exercised). Stages that are not FSDP modules
need no such token for anything else. So the number is that of a slot: an entry in a
table of the stage's second-order ops, in notation, the optimizer's steps included.

The runtime executes one step per call. Work of a refresh that the schedule puts into a
later step stands in the rows of that step, where the device's order has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schedopt.build import build_graph
from schedopt.errors import ExportError
from schedopt.export.checking_slots import slot_faults
from schedopt.export.lowering import lower_rows
from schedopt.export.program import Program, program_of
from schedopt.export.rules import broken_rules
from schedopt.export.torch_tokens import Rows, Token, TokenKind
from schedopt.instance import Instance, Kfac, Placement
from schedopt.ops import Op, OpKind
from schedopt.refresh.frame import pipeline_alone
from schedopt.runtimes import profile_of
from schedopt.schedule import Schedule

_PROFILE = "torch-csv"

SLOT_KINDS = frozenset(
    {
        OpKind.CURVATURE_A,
        OpKind.CURVATURE_B,
        OpKind.INVERSION,
        OpKind.PRECONDITION,
        OpKind.STEP,
    }
)
"""What stands in slots."""

Slots = tuple[tuple[Op, ...], ...]
"""For each stage its ops that stand in slots; a slot's number is the place in it."""


@dataclass(frozen=True, eq=False)
class KfacRows:
    """What torch executes of a training, and what its slots mean.

    Attributes
    ----------
    program : Program
        The training: all steps, in one row per device.
    steps : tuple of Rows
        For each step the rows with transfers and slots.
    slots : tuple of tuple of Op
        For each stage its slots.
    """

    program: Program
    steps: tuple[Rows, ...]
    slots: Slots

    @property
    def kfac(self) -> Kfac:
        """The settings of the second-order work."""
        assert self.program.instance.kfac is not None
        return self.program.instance.kfac

    @property
    def repeated(self) -> tuple[int, int] | None:
        """The steps that a training without end repeats: first, and first after them.

        Those from the second refresh on to the third: nothing reaches past the next
        cycle. None if fewer than two refreshes are unrolled.
        """
        interval = self.kfac.interval
        if self.kfac.refreshes < 2 or len(self.steps) < 2 * interval:
            return None
        return interval, 2 * interval


def kfac_rows(program: Program) -> KfacRows:
    """The rows of a training with K-FAC, checked.

    Raises
    ------
    ExportError
        If torch's runtime cannot execute it; the message says what to change.
    """
    _refuse_what_has_copies(program.instance)
    for step in range(program.instance.steps):
        broken = broken_rules(_step_alone(program, step), profile_of(_PROFILE))
        if broken:
            raise ExportError(str(broken[0]))
    slots: list[list[Op]] = [[] for _ in program.instance.stages]
    rows = [_rows_of_device(program, device, slots) for device in _devices(program)]
    steps = tuple(
        lower_rows(
            [by_step[step] for by_step in rows],
            program.device_of_stage,
            program.microbatches,
        ).rows
        for step in range(program.instance.steps)
    )
    made = KfacRows(program, steps, tuple(map(tuple, slots)))
    check(made)
    return made


def check(rows: KfacRows) -> None:
    """Refuse rows whose slots stand before what they need, or that torch gets wrong.

    Raises
    ------
    ExportError
        The first fault.
    """
    found = slot_faults(
        rows.steps,
        rows.slots,
        microbatches=rows.program.microbatches,
        rank_of_stage=rows.program.device_of_stage,
        recomputed=rows.program.instance.recompute,
    )
    if found:
        raise ExportError(str(found[0]))


def ops_by_step(program: Program, device: int) -> list[list[Op]]:
    """What a device does in each step, as the schedule orders it.

    A step begins with its first F. Recomputations are left out: they are inside the
    backward of a stage with activation checkpointing.

    Raises
    ------
    ExportError
        If a step's work comes after the next one's.
    """
    found: list[list[Op]] = [[] for _ in range(program.instance.steps)]
    step = 0
    for op in program.rows[device]:
        if op.kind is OpKind.RECOMPUTE:
            continue
        if Token.of(op) is not None:
            if op.step < step:
                msg = (
                    f"{op} on device {device} comes after work of step {step}, but"
                    " torch executes one step per call; solve with another pipeline"
                )
                raise ExportError(msg)
            step = op.step
        found[step].append(op)
    return found


def inverses_in_use(program: Program) -> Mapping[Op, Mapping[str, int]]:
    """For each preconditioning the step of the data of each inverse that it uses.

    By the name of the factor (``ffn.1.A``); a factor that has no inverse yet is not
    there. Taken from the device's order in the schedule, not from any rows.
    """
    found: dict[Op, Mapping[str, int]] = {}
    for row in program.rows:
        newest: dict[int, dict[str, int]] = {}
        for op in row:
            of_stage = newest.setdefault(op.stage, {})
            if op.kind is OpKind.INVERSION:
                of_stage[op.part] = op.step
            elif op.kind is OpKind.PRECONDITION:
                found[op] = dict(of_stage)
    return found


def layers_of(program: Program) -> tuple[tuple[str, ...], ...]:
    """For each stage the layers that have second-order work, as the instance has them.

    Not in the order of their work: names go to a model's layers one after the other.
    """
    return tuple(
        tuple(layer for module in stage.modules for layer in module.layers)
        for stage in program.instance.stages
    )


def _refuse_what_has_copies(instance: Instance) -> None:
    if instance.kfac is None:
        msg = "has no K-FAC work; export torch-csv instead"
        raise ExportError(msg)
    if instance.placement is Placement.BIDIRECTIONAL:
        msg = (
            "placement: bidirectional: torch's runtime has every stage on one rank and"
            " one chain of stages, so a stage that two ranks hold cannot be executed;"
            " choose another placement"
        )
        raise ExportError(msg)
    if instance.kfac.replicas > 1:
        msg = (
            f"kfac.replicas = {instance.kfac.replicas}: collectives between replicas"
            " have no slots; set replicas: 1 and solve again"
        )
        raise ExportError(msg)


def _devices(program: Program) -> range:
    return range(len(program.rows))


def _step_alone(program: Program, step: int) -> Program:
    """The pipeline's ops of one step: what a runtime's rules are about."""
    graph = build_graph(pipeline_alone(program.instance))
    start = {
        op._replace(step=0): time
        for op, time in program.schedule.start.items()
        if op.step == step and op._replace(step=0) in graph.data
    }
    return program_of(
        pipeline_alone(program.instance), Schedule(graph, start).shifted_to_zero()
    )


def _rows_of_device(
    program: Program, device: int, slots: list[list[Op]]
) -> list[list[Token]]:
    """A device's tokens of each step, without transfers; its slots get numbers."""
    rows = []
    for ops in ops_by_step(program, device):
        row = []
        for op in ops:
            token = Token.of(op)
            if token is None:
                token = Token(op.stage, TokenKind.UNSHARD, len(slots[op.stage]))
                slots[op.stage].append(op)
            row.append(token)
        rows.append(row)
    return rows
