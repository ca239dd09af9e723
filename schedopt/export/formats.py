"""The export formats: what each is for, which runtime reads it, and who writes it.

A new format is a module with a function ``Program -> {file name: text}`` and one entry
here; ``schedopt export`` and its list know nothing else. The rules of the runtime are
checked before anything is written, and in one place: ``export``.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from schedopt.errors import ExportError, FormatError
from schedopt.export import (
    automodel,
    chrome_trace,
    colossalai,
    deepspeed,
    jaxpp,
    mindspeed,
    tables,
    torch_files,
    torch_kfac,
    torchtitan,
    zero_bubble,
)
from schedopt.export.program import Program
from schedopt.export.rules import broken_rules
from schedopt.formats import write_text_atomically
from schedopt.nearest import did_you_mean
from schedopt.ops import OpKind
from schedopt.runtimes import FirstStage, Recompute, RuntimeProfile, profile_of
from schedopt.simulate import with_memory_edges
from schedopt.verify import violations


class Evidence(StrEnum):
    """How far a format has been tried: in its runtime, or by a check of its rules."""

    EXECUTED = "executed"
    VALIDATED = "validated"


@dataclass(frozen=True)
class ExportFormat:
    """One way to write a program to files.

    Attributes
    ----------
    name, summary
        Its name on the command line, and one line for the list.
    profile : str or None
        The runtime whose rules a program must keep (``schedopt.runtimes``); None for
        formats that people and other programs read.
    evidence : Evidence
        Whether the runtime has executed such files in the tests of this project.
    write : function
        The files' texts by their names. It may raise ``ExportError``.
    next_step : str
        What the user does with the files, one line; ``{stem}`` stands for the stem of
        their names, ``{ranks}`` for the number of devices, ``{cd}`` for the beginning
        of a command that goes to their folder and ``{folder}`` for its name.
    """

    name: str
    summary: str
    profile: str | None
    evidence: Evidence
    write: Callable[[Program], Mapping[str, str]]
    next_step: str = ""


@dataclass(frozen=True)
class Export:
    """What an export made.

    Attributes
    ----------
    format : ExportFormat
        Its format.
    files : mapping of str to str
        The files' texts by their names.
    notes : tuple of str
        What a person should know of them, a line each.
    next_step : str
        What to do with them.
    """

    format: ExportFormat
    files: Mapping[str, str]
    notes: tuple[str, ...]
    next_step: str

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the files into a folder, which is made if it is not there.

        Raises
        ------
        FormatError
            If they cannot be written.
        """
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            msg = f"{folder}: the folder cannot be made: {error.strerror}"
            raise FormatError(msg) from None
        for name, text in self.files.items():
            write_text_atomically(Path(folder) / name, text)
        return [Path(folder) / name for name in self.files]


_RUN_TORCH = (
    "{cd}torchrun --nproc-per-node {ranks} run_torch.py {stem}.csv --model MODEL.py"
    "  (MODEL.py is yours: the top of run_torch.py says what it has)"
)

_LISTED = (
    ExportFormat(
        "torch-csv",
        "torch.distributed.pipelining: compute-only CSV and a script that runs it",
        "torch-csv",
        Evidence.EXECUTED,
        torch_files.compute_only,
        _RUN_TORCH,
    ),
    ExportFormat(
        "torch-csv-comms",
        "the same with every transfer in its place (torch 2.13)",
        "torch-csv",
        Evidence.EXECUTED,
        torch_files.with_transfers,
        _RUN_TORCH,
    ),
    ExportFormat(
        "torch-kfac",
        "a training with K-FAC for torch: a CSV per step, and what runs its slots",
        None,
        Evidence.EXECUTED,
        torch_kfac.files,
        "{cd}torchrun --nproc-per-node {ranks} run_torch_kfac.py {stem}.kfac.json"
        " --model MODEL.py  (MODEL.py is yours: the top of run_torch_kfac.py says what"
        " it has)",
    ),
    ExportFormat(
        "torchtitan",
        "torchtitan: compute-only CSV and the configuration that belongs to it",
        "torchtitan",
        Evidence.VALIDATED,
        torchtitan.files,
        "start torchtitan in {folder} with the flags $(cat {stem}.torchtitan.args)",
    ),
    ExportFormat(
        "automodel",
        "NeMo Automodel: compute-only CSV and the configuration that belongs to it",
        "automodel",
        Evidence.VALIDATED,
        automodel.files,
        "merge {stem}.automodel.yaml into the recipe's configuration",
    ),
    ExportFormat(
        "deepspeed",
        "DeepSpeed: a module with a PipeSchedule, transfers and buffers included",
        "deepspeed",
        Evidence.EXECUTED,
        deepspeed.deepspeed_module,
        "import install from deepspeed_schedule and call install(engine)",
    ),
    ExportFormat(
        "zero-bubble",
        "zero-bubble fork of Megatron-LM: a module with lists of ScheduledNode",
        "zero-bubble",
        Evidence.VALIDATED,
        zero_bubble.zero_bubble_module,
        "put zero_bubble_schedule.py into the fork's scheduler folder",
    ),
    ExportFormat(
        "colossalai",
        "ColossalAI: a module with lists of ScheduledNode, transfers included",
        "colossalai",
        Evidence.VALIDATED,
        colossalai.colossalai_module,
        "give HybridParallelPlugin scheduler_nodes() of colossalai_schedule",
    ),
    ExportFormat(
        "mindspeed",
        "Ascend MindSpeed: autopipeline_perf_config.json, to be completed",
        "mindspeed",
        Evidence.VALIDATED,
        mindspeed.mindspeed_files,
        "{cd}python complete_mindspeed_config.py --help",
    ),
    ExportFormat(
        "jaxpp",
        "JaxPP: a module with a BaseSchedule class",
        "jaxpp",
        Evidence.VALIDATED,
        jaxpp.jaxpp_module,
        "pass ExportedSchedule() of jaxpp_schedule to the accumulation loop",
    ),
    ExportFormat(
        "chrome-trace",
        "a trace for Perfetto and chrome://tracing",
        None,
        Evidence.VALIDATED,
        chrome_trace.chrome_trace,
        "open {stem}.trace.json in ui.perfetto.dev or chrome://tracing",
    ),
    ExportFormat(
        "json",
        "each rank's ops with their times",
        None,
        Evidence.VALIDATED,
        tables.program_json,
    ),
    ExportFormat(
        "csv",
        "a flat table of all ops",
        None,
        Evidence.VALIDATED,
        tables.ops_csv,
    ),
)

FORMATS: Mapping[str, ExportFormat] = {entry.name: entry for entry in _LISTED}
"""Every format by its name, in the order of the list."""


def format_of(name: str) -> ExportFormat:
    """The format of a name.

    Raises
    ------
    ExportError
        If there is none of that name; the nearest one is suggested.
    """
    if name in FORMATS:
        return FORMATS[name]
    hint = did_you_mean(name.lower(), FORMATS)
    msg = f"{name[:40]!r} is no export format; there are {', '.join(FORMATS)}{hint}"
    raise ExportError(msg)


def export(program: Program, name: str, folder: Path = Path()) -> Export:
    """The files of a program in a format; nothing is written here.

    ``folder`` is where they will be, for the next step.

    Where equal microbatches only need other numbers to keep the runtime's rules, they
    get them, and a note says so.

    Raises
    ------
    ExportError
        If there is no such format, or the program breaks a rule of its runtime; the
        message names the op, and what to change.
    """
    chosen = format_of(name)
    fitting, notes = _fitting(program, chosen)
    if chosen.profile is not None:
        notes += tuple(_left_to_the_runtime(fitting, profile_of(chosen.profile)))
    here = folder == Path()
    next_step = chosen.next_step.format(
        stem=fitting.file_stem,
        ranks=len(fitting.rows),
        cd="" if here else f"cd {shlex.quote(str(folder))} && ",
        folder="this folder" if here else str(folder),
    )
    return Export(chosen, chosen.write(fitting), notes, next_step)


def as_exported(program: Program, name: str) -> Program:
    """The program whose rows a format's files have: renumbered if need be.

    Raises
    ------
    ExportError
        As ``export``.
    """
    return _fitting(program, format_of(name))[0]


def _left_to_the_runtime(program: Program, profile: RuntimeProfile) -> Iterator[str]:
    """What the schedule counts on and the order does not make the runtime do."""
    stages = program.instance.recompute
    if stages and profile.recompute is Recompute.IN_WHOLE:
        numbers = ", ".join(map(str, sorted(stages)))
        yield (
            f"stages {numbers} are recomputed in the schedule: turn activation"
            " checkpointing on for them, and for no other"
        )
    if with_memory_edges(program.schedule).memory_edges:
        yield (
            "the schedule keeps its memory limits by waiting for transfers, which the"
            " runtime does not: it may need more memory"
        )
    own = program.instance.runtime
    counted = profile_of(own).first_stage if own else FirstStage.REAL
    splits = any(
        op.kind is OpKind.BACKWARD_INPUT and op.stage == 0
        for row in program.rows
        for op in row
    )
    differs = profile.first_stage is not counted
    if splits and differs and profile.first_stage is FirstStage.ALL_IN_WEIGHT:
        yield (
            f"{profile.name} runs the whole backward of stage 0 in its W, and the"
            " schedule does not count on it: times and memory of that stage will be"
            f" others; solve with --runtime {profile.name}"
        )


def _fitting(program: Program, chosen: ExportFormat) -> tuple[Program, tuple[str, ...]]:
    """The program, renumbered if that is what its runtime needs."""
    if chosen.profile is None:
        return program, ()
    profile = profile_of(chosen.profile)
    broken = broken_rules(program, profile)
    if not broken:
        return program, ()
    for other, note in _renumbered(program):
        left = broken_rules(other, profile)
        if not left:
            return other, (note,)
        broken = min(broken, left, key=len)
    raise ExportError(str(broken[0]))


def _renumbered(program: Program) -> Iterator[tuple[Program, str]]:
    """The same times with other microbatch numbers, least change first."""
    if not program.can_be_relabelled:
        return
    for one_order, how in (
        (False, "as the last stage runs their forwards"),
        (True, "in the order in which each stage runs them"),
    ):
        other = program.relabelled(one_order=one_order)
        if not violations(other.schedule.graph, other.schedule.start):
            yield (
                other,
                f"microbatches are numbered {how}: they are equal, and no time changes",
            )
