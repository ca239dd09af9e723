"""The commands that make instances of measurements: ``profile`` and ``import``.

As in ``commands``, nothing slow is imported here.
"""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schedopt.cli import options as given
from schedopt.cli.commands import app
from schedopt.cli.later import Later
from schedopt.formats.limits import Limits
from schedopt.importers import Format
from schedopt.instance import Backward, Placement
from schedopt.measure.sizes import GptModel

if TYPE_CHECKING:
    from schedopt.cli import importing, profiling
    from schedopt.importers import drafts
else:
    importing = Later("schedopt.cli.importing")
    profiling = Later("schedopt.cli.profiling")
    drafts = Later("schedopt.importers.drafts")


class PlacementWord(StrEnum):
    """The placements that need no list of devices."""

    LINEAR = "linear"
    LOOPED = "looped"
    V = "v"


class TimeUnitWord(StrEnum):
    """The instance format's units of time."""

    S = "s"
    MS = "ms"
    US = "us"
    NS = "ns"


class MemoryUnitWord(StrEnum):
    """The instance format's units of memory."""

    B = "B"
    KIB = "KiB"
    MIB = "MiB"
    GIB = "GiB"


class TorchType(StrEnum):
    """The types that a stage's weights can have."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT64 = "float64"


InstanceName = Annotated[
    str | None, typer.Option(metavar="NAME", help="What tables call the instance.")
]
MemoryLimit = Annotated[
    float | None,
    typer.Option(
        metavar="SIZE",
        min=0,
        help="Memory of every device, in the instance's unit (MiB).",
    ),
]
Bandwidth = Annotated[
    float | None, typer.Option(metavar="B", min=1, help="Bytes per second of a link.")
]


@app.command("import", short_help="Measured files to an instance.")
def import_files(  # noqa: PLR0913, PLR0917 (one argument per option)
    form: Annotated[
        Format, typer.Argument(metavar="FORMAT", help="What the files are.")
    ],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="What was measured.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="INSTANCE", help="Instance file to write."
        ),
    ],
    name: InstanceName = None,
    stages: Annotated[
        int | None,
        typer.Option(
            metavar="S",
            min=1,
            help="Cut the layers of a pipedream-graph into so many stages.",
        ),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            metavar="P",
            min=1,
            help="How many devices.  [default: as in the files, or one per stage]",
        ),
    ] = None,
    microbatches: Annotated[
        int | None,
        typer.Option(
            metavar="M",
            min=1,
            help="How many microbatches.  [default: as in the files; else required]",
        ),
    ] = None,
    placement: Annotated[
        PlacementWord | None,
        typer.Option(help="Where stages live.  [default: as in the files, or linear]"),
    ] = None,
    memory_limit: MemoryLimit = None,
    latency: Annotated[
        float | None,
        typer.Option(
            metavar="T", min=0, help="Time of a transfer, in the instance's unit."
        ),
    ] = None,
    bandwidth: Bandwidth = None,
    time_unit: Annotated[
        TimeUnitWord | None, typer.Option(help="Of a table's times.  [default: us]")
    ] = None,
    memory_unit: Annotated[
        MemoryUnitWord | None, typer.Option(help="Of a table's sizes.  [default: MiB]")
    ] = None,
    as_json: given.Json = False,
    max_ops: given.MaxOps = given.DEFAULT_LIMITS.max_ops,
    max_bytes: given.MaxBytes = given.DEFAULT_LIMITS.max_bytes,
) -> None:
    """Make an instance of traces, logs, profiles or tables of others."""
    wanted = drafts.Wanted(
        name=name,
        stages=stages,
        devices=devices,
        microbatches=microbatches,
        placement=None if placement is None else Placement(placement.value),
        memory_limit=memory_limit,
        latency=latency,
        bandwidth=bandwidth,
        time_unit=None if time_unit is None else time_unit.value,
        memory_unit=None if memory_unit is None else memory_unit.value,
    )
    code = importing.import_instance(
        form, files, output, wanted, Limits(max_ops, max_bytes), as_json=as_json
    )
    raise typer.Exit(code)


@app.command(short_help="Measure a model's stages with torch.")
def profile(  # noqa: PLR0913, PLR0917 (one argument per option)
    context: typer.Context,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="INSTANCE", help="Write the instance here."
        ),
    ] = None,
    factory: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="Makes a stage of your model and its input.  [default: a GPT]",
        ),
    ] = None,
    stages: Annotated[
        int, typer.Option(metavar="S", min=1, help="How many stages.")
    ] = 4,
    layers: Annotated[
        int | None,
        typer.Option(metavar="L", min=1, help="Blocks in all.  [default: S x blocks]"),
    ] = None,
    blocks: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Blocks per stage, without --layers."),
    ] = 1,
    vocab: Annotated[
        int,
        typer.Option(
            metavar="V", min=0, help="Vocabulary; 0: no embedding, no output layer."
        ),
    ] = 0,
    hidden: Annotated[int, typer.Option(metavar="H", min=1, help="Width.")] = 256,
    heads: Annotated[
        int, typer.Option(metavar="N", min=1, help="Attention heads.")
    ] = 4,
    sequence: Annotated[
        int, typer.Option(metavar="N", min=1, help="Tokens per sequence.")
    ] = 128,
    microbatch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Sequences per microbatch.")
    ] = 1,
    dtype: Annotated[
        TorchType, typer.Option(help="Type of weights and hidden states.")
    ] = TorchType.FLOAT32,
    mlp_ratio: Annotated[
        int, typer.Option(metavar="N", min=1, help="Width of the MLP / H.")
    ] = 4,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="Recompute blocks in the backward.")
    ] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile each stage with torch.compile.")
    ] = False,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="cpu, cuda or cuda:N.")
    ] = "cpu",
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Threads of the CPU.  [default: torch's]"
        ),
    ] = None,
    warmup: Annotated[
        int, typer.Option(metavar="N", min=1, help="Repetitions not counted.")
    ] = 3,
    repetitions: Annotated[
        int, typer.Option(metavar="N", min=1, help="Repetitions counted.")
    ] = 20,
    kfac: Annotated[
        bool, typer.Option("--kfac", help="K-FAC's work of each linear layer too.")
    ] = False,
    name: InstanceName = None,
    devices: Annotated[
        int | None,
        typer.Option(
            metavar="P",
            min=1,
            help="How many devices.  [default: one per stage]",
        ),
    ] = None,
    microbatches: Annotated[
        int | None,
        typer.Option(
            metavar="M",
            min=1,
            help="How many microbatches.  [default: 2 x P]",
        ),
    ] = None,
    backward: Annotated[
        Backward | None,
        typer.Option(
            help="Its form in the instance.  [default: split; whole with"
            " --checkpointing or --compile]"
        ),
    ] = None,
    memory_limit: MemoryLimit = None,
    state_bytes: Annotated[
        float,
        typer.Option(metavar="N", min=0, help="Optimizer's bytes per parameter."),
    ] = 8,
    latency: Annotated[
        float, typer.Option(metavar="US", min=0, help="Time of a transfer, us.")
    ] = 0,
    bandwidth: Bandwidth = None,
    as_json: given.Json = False,
    max_ops: given.MaxOps = given.DEFAULT_LIMITS.max_ops,
    max_bytes: given.MaxBytes = given.DEFAULT_LIMITS.max_bytes,
) -> None:
    """Time F, I, W and B of a model's stages, each alone, and measure their memory.

    Needs torch: install schedopt[torch].
    """
    gpt = GptModel(
        stages=stages,
        hidden=hidden,
        heads=heads,
        sequence=sequence,
        microbatch_size=microbatch_size,
        dtype=dtype.value,
        layers=layers or stages * blocks,
        vocabulary=vocab,
        mlp_ratio=mlp_ratio,
        checkpointing=checkpointing,
        compiled=compiled,
    )
    measured = profiling.Measured(
        device=device,
        threads=threads,
        warmup=warmup,
        repetitions=repetitions,
        with_kfac=kfac,
    )
    pipeline = profiling.PipelineGiven(
        name=name,
        stages=stages,
        devices=devices,
        microbatches=microbatches,
        backward=backward,
        memory_limit=memory_limit,
        state_bytes=state_bytes,
        latency=latency,
        bandwidth=bandwidth,
    )
    code = profiling.profile(
        gpt if factory is None else factory,
        measured,
        pipeline,
        output,
        _command(context),
        Limits(max_ops, max_bytes),
        as_json=as_json,
    )
    raise typer.Exit(code)


def _command(context: typer.Context) -> str:
    """The command as it was typed, without where results go."""
    words = ["schedopt", context.command.name or ""]
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        if name in ("output", "as_json"):
            continue
        value = context.params[name]
        words.append(max(parameter.opts, key=len))
        words += [] if value is True else [str(value).removesuffix(".0")]
    return shlex.join(words)
