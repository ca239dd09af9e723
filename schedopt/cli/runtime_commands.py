"""The commands around runtimes: export, execute, profile and import.

As in ``commands``, nothing slow is imported here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schedopt.cli import options as given
from schedopt.cli.commands import app
from schedopt.cli.exits import WRONG_USAGE
from schedopt.cli.later import Later
from schedopt.cli.output import complain
from schedopt.execute.choices import TRACED_STEPS, Backend, Comms, Model
from schedopt.formats.limits import Limits

if TYPE_CHECKING:
    from schedopt.cli import executing, exporting
else:
    executing = Later("schedopt.cli.executing")
    exporting = Later("schedopt.cli.exporting")


@app.command(short_help="Write a runtime's files.")
def export(
    name: Annotated[
        str | None, typer.Argument(metavar="FORMAT", help="A name that --list has.")
    ] = None,
    schedule: Annotated[
        Path | None, typer.Argument(metavar="SCHEDULE", help="Schedule file.")
    ] = None,
    show_list: Annotated[
        bool, typer.Option("--list", help="List the formats.")
    ] = False,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Folder of the files, made if needed."
        ),
    ] = Path(),
    as_json: given.Json = False,
    max_ops: given.MaxOps = given.DEFAULT_LIMITS.max_ops,
    max_bytes: given.MaxBytes = given.DEFAULT_LIMITS.max_bytes,
) -> None:
    """Write a schedule as the files that a runtime executes.

    A schedule that breaks a rule of the runtime is refused, with the op that does.
    """
    if show_list:
        raise typer.Exit(exporting.list_formats(as_json=as_json))
    if name is None or schedule is None:
        complain("export needs FORMAT and SCHEDULE, or --list")
        raise typer.Exit(WRONG_USAGE)
    limits = Limits(max_ops, max_bytes)
    code = exporting.export_schedule(name, schedule, output, limits, as_json=as_json)
    raise typer.Exit(code)


@app.command(short_help="Let torch execute a schedule.")
def execute(  # noqa: PLR0913, PLR0917 (one argument per option)
    schedule: given.SchedulePath,
    model: Annotated[
        Model | None,
        typer.Option(
            help="What the stages compute; sleep: times are compared.  [default:"
            " transformer; with --config gpt]"
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The GPT that profile measured (NAME.model.json)."
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Then trace further steps for import, one file per device in DIR.",
        ),
    ] = None,
    traced_steps: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Traced steps; the first one warms up."),
    ] = TRACED_STEPS,
    comms: Annotated[
        Comms, typer.Option(help="Who puts the sends and receives into the rows.")
    ] = Comms.TORCH,
    backend: Annotated[
        Backend,
        typer.Option(help="gloo: processes on the CPU; nccl: one GPU per device."),
    ] = Backend.GLOO,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Training steps that are compared.  [default: 2; with sleep 4]",
        ),
    ] = None,
    blocks: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Blocks per stage; a gpt has its own."),
    ] = 1,
    sleep_scale: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            callback=given.positive,
            help="Seconds slept per second of the instance.  [default: ops sleep 50 ms"
            " on average]",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="S",
            callback=given.positive,
            help="How long a rank waits for another beyond what is predicted, seconds.",
        ),
    ] = 60.0,
    seed: given.Seed = given.SEED,
    as_json: given.Json = False,
    max_ops: given.MaxOps = given.DEFAULT_LIMITS.max_ops,
    max_bytes: given.MaxBytes = given.DEFAULT_LIMITS.max_bytes,
) -> None:
    """Let torch execute a schedule, and compare it with the plain model.

    Each device is a process of its own on this machine. Losses and all gradients must
    be those of the unpipelined model within 1e-12, in float64, or the exit code is 1.
    """
    if model is None:
        model = Model.TRANSFORMER if config is None else Model.GPT
    if (config is None) == (model is Model.GPT):
        complain(
            "--model gpt needs --config FILE, which schedopt profile writes"
            if config is None
            else f"--config is for the model gpt, not {model.value}"
        )
        raise typer.Exit(WRONG_USAGE)
    if trace is not None and model is Model.SLEEP:
        complain("--trace: a model that sleeps has nothing to trace; choose another")
        raise typer.Exit(WRONG_USAGE)
    code = executing.execute(
        schedule,
        Limits(max_ops, max_bytes),
        model=model,
        config=config,
        trace=trace,
        traced_steps=traced_steps,
        comms=comms,
        backend=backend,
        blocks=blocks,
        seed=seed,
        steps=steps,
        sleep_scale=sleep_scale,
        timeout_s=timeout,
        as_json=as_json,
    )
    raise typer.Exit(code)
