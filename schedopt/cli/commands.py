"""The commands and their options: each parses, delegates and exits.

Nothing slow is imported here: the modules that do the work are loaded when a command
runs, so that help answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schedopt.cli import options as given
from schedopt.cli.exits import DONE, WRONG_USAGE
from schedopt.cli.later import Later
from schedopt.cli.output import complain, print_text
from schedopt.formats.limits import Limits

if TYPE_CHECKING:
    from schedopt import version
    from schedopt.cli import (
        batches,
        checking,
        comparing,
        pictures,
        recording,
        refreshing,
        solving,
    )
    from schedopt.solve import solution
else:
    batches = Later("schedopt.cli.batches")
    checking = Later("schedopt.cli.checking")
    comparing = Later("schedopt.cli.comparing")
    pictures = Later("schedopt.cli.pictures")
    recording = Later("schedopt.cli.recording")
    refreshing = Later("schedopt.cli.refreshing")
    solving = Later("schedopt.cli.solving")
    version = Later("schedopt.version")
    solution = Later("schedopt.solve.solution")

app = typer.Typer(
    name="schedopt",
    help="Find provably good schedules for pipeline-parallel training.",
    epilog=(
        "Exit codes: 0 done, 1 the problem says no (one line on stderr says why),"
        " 2 wrong usage, 130 interrupted."
    ),
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_text(f"schedopt {version.own_version()}")
        raise typer.Exit(DONE)


@app.callback()
def schedopt(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Find provably good schedules for pipeline-parallel training."""


@app.command(short_help="Find a good schedule, prove how good.")
def solve(  # noqa: PLR0913, PLR0917 (one argument per option)
    instance: given.InstancePath,
    output: given.Output = None,
    time_limit: given.TimeLimit = given.TIME_LIMIT_S,
    workers: given.Workers = given.WORKERS,
    seed: given.Seed = given.SEED,
    objective: given.ObjectiveOption = None,
    placement: given.PlacementOption = None,
    runtime: given.RuntimeOption = None,
    minimise: given.MinimiseOption = None,
    freedom: given.FreedomOption = None,
    front: given.FrontOption = False,
    interval: given.IntervalOption = None,
    wrap: given.Wrap = False,
    pipeline: given.PipelineOption = None,
    steps_to_target: given.StepsOption = None,
    reproducible: given.Reproducible = False,
    as_json: given.Json = False,
    gantt: given.Gantt = None,
    max_ops: given.MaxOps = given.DEFAULT_LIMITS.max_ops,
    max_bytes: given.MaxBytes = given.DEFAULT_LIMITS.max_bytes,
) -> None:
    """Find a good schedule and prove how good it is.

    With --objective refresh the second-order work of an instance goes into the gaps of
    a pipeline schedule. With --front steps may be longer, and refreshes more frequent.

    Without -o no file is written, unless the run is interrupted: then the best schedule
    so far goes to NAME.schedule.json in the current folder.
    """
    parameters = solution.SolveParameters(
        time_limit_s=time_limit,
        workers=workers,
        seed=seed,
        objective=objective,
        reproducible=reproducible,
    )
    limits = Limits(max_ops, max_bytes)
    asked = refreshing.Asked(
        minimise=minimise,
        freedom=freedom,
        pipeline=pipeline,
        steps_to_target=steps_to_target,
        interval=interval,
        wrap=wrap,
        front=front,
    )
    if refreshing.is_asked_for(instance, objective, limits):
        code = refreshing.refresh(
            instance,
            output,
            parameters,
            limits,
            asked,
            as_json=as_json,
            gantt=gantt,
        )
        raise typer.Exit(code)
    if asked != refreshing.Asked():
        complain(refreshing.NEEDS_REFRESH)
        raise typer.Exit(WRONG_USAGE)
    code = solving.solve(
        instance,
        output,
        parameters,
        limits,
        placement=placement,
        runtime=runtime,
        as_json=as_json,
        gantt=gantt,
    )
    raise typer.Exit(code)


@app.command(short_help="Run one hand-made schedule.")
def baseline(  # noqa: PLR0913, PLR0917 (one argument per option)
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The schedule's name.")
    ] = None,
    instance: Annotated[
        Path | None, typer.Argument(metavar="INSTANCE", help="Instance file.")
    ] = None,
    show_list: Annotated[
        bool, typer.Option("--list", help="List the hand-made schedules.")
    ] = False,
    output: given.Output = None,
    as_json: given.Json = False,
    gantt: given.Gantt = None,
    max_ops: given.MaxOps = given.DEFAULT_LIMITS.max_ops,
    max_bytes: given.MaxBytes = given.DEFAULT_LIMITS.max_bytes,
) -> None:
    """Run a hand-made schedule on an instance.

    It runs in the form that it needs, as published if that fits in memory, else with as
    many microbatches in flight as fit.
    """
    if show_list:
        raise typer.Exit(comparing.list_baselines(as_json=as_json))
    if name is None or instance is None:
        complain("baseline needs NAME and INSTANCE, or --list")
        raise typer.Exit(WRONG_USAGE)
    limits = Limits(max_ops, max_bytes)
    code = comparing.baseline(
        name, instance, output, limits, as_json=as_json, gantt=gantt
    )
    raise typer.Exit(code)


@app.command(short_help="Hand-made schedules and the optimizer.")
def compare(  # noqa: PLR0913, PLR0917 (one argument per option)
    instances: given.InstancePaths,
    run_optimizer: Annotated[
        bool, typer.Option("--solve/--no-solve", help="Run the optimizer too.")
    ] = True,
    forms: Annotated[
        bool,
        typer.Option(
            "--forms",
            help="Run the optimizer also on every form that a fitting hand-made"
            " schedule uses (other placements, cuts and backwards).",
        ),
    ] = False,
    orders: Annotated[
        list[Path] | None,
        typer.Option(
            "--order",
            metavar="FILE",
            help="Your own order, a row of ops per device (as torch's CSV) or a"
            " schedule file; may be given several times.",
        ),
    ] = None,
    time_limit: given.TimeLimit = given.TIME_LIMIT_S,
    workers: given.Workers = given.WORKERS,
    seed: given.Seed = given.SEED,
    objective: given.ObjectiveOption = None,
    reproducible: given.Reproducible = False,
    as_json: given.Json = False,
    max_ops: given.MaxOps = given.DEFAULT_LIMITS.max_ops,
    max_bytes: given.MaxBytes = given.DEFAULT_LIMITS.max_bytes,
) -> None:
    """Compare every hand-made schedule and the optimizer at equal memory.

    The time limit is for each run of the optimizer.
    """
    parameters = solution.SolveParameters(
        time_limit_s=time_limit,
        workers=workers,
        seed=seed,
        objective=objective,
        reproducible=reproducible,
    )
    code = comparing.compare(
        instances,
        parameters,
        Limits(max_ops, max_bytes),
        run_optimizer=run_optimizer,
        forms=forms,
        order_paths=orders or (),
        as_json=as_json,
    )
    raise typer.Exit(code)


@app.command(short_help="Check schedules against every rule.")
def verify(
    schedules: given.SchedulePaths,
    as_json: given.Json = False,
    max_ops: given.MaxOps = given.DEFAULT_LIMITS.max_ops,
    max_bytes: given.MaxBytes = given.DEFAULT_LIMITS.max_bytes,
) -> None:
    """Check schedules against every rule of their op graphs."""
    limits = Limits(max_ops, max_bytes)
    raise typer.Exit(checking.verify(schedules, limits, as_json=as_json))


@app.command(short_help="Replay an order.")
def simulate(
    instance: given.InstancePath,
    order: Annotated[
        Path,
        typer.Argument(
            metavar="ORDER",
            help="A schedule file, or text: one row of ops per device, 0F0,0I0,0W0.",
        ),
    ],
    output: given.Output = None,
    as_json: given.Json = False,
    gantt: given.Gantt = None,
    max_ops: given.MaxOps = given.DEFAULT_LIMITS.max_ops,
    max_bytes: given.MaxBytes = given.DEFAULT_LIMITS.max_bytes,
) -> None:
    """Replay an order on an instance: every op starts as early as it can."""
    code = checking.simulate(
        instance,
        order,
        output,
        Limits(max_ops, max_bytes),
        as_json=as_json,
        gantt=gantt,
    )
    raise typer.Exit(code)


@app.command(short_help="Print proven lower bounds.")
def bound(
    instance: given.InstancePath,
    time_limit: given.TimeLimit = given.BOUND_TIME_LIMIT_S,
    objective: given.ObjectiveOption = None,
    as_json: given.Json = False,
    max_ops: given.MaxOps = given.DEFAULT_LIMITS.max_ops,
    max_bytes: given.MaxBytes = given.DEFAULT_LIMITS.max_bytes,
) -> None:
    """Print proven lower bounds: no schedule has a smaller value."""
    limits = Limits(max_ops, max_bytes)
    code = solving.bound(instance, objective, time_limit, limits, as_json=as_json)
    raise typer.Exit(code)


@app.command(short_help="Draw a schedule to a picture file.")
def plot(
    schedule: given.SchedulePath,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Picture to write: .png, .svg, .pdf."
        ),
    ],
    max_ops: given.MaxOps = given.DEFAULT_LIMITS.max_ops,
    max_bytes: given.MaxBytes = given.DEFAULT_LIMITS.max_bytes,
) -> None:
    """Draw a schedule: its ops to scale, and each device's memory under its limit."""
    raise typer.Exit(pictures.plot(schedule, output, Limits(max_ops, max_bytes)))


@app.command(short_help="Print a file format's JSON Schema.")
def schema(
    name: Annotated[given.SchemaName, typer.Argument(help="Which file format.")],
) -> None:
    """Print the JSON Schema of a file format."""
    raise typer.Exit(checking.schema(name))


@app.command(short_help="Run a batch of solves.")
def run(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="Batch specification.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Folder of the results."),
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Do runs again that broke.")
    ] = False,
    as_json: given.Json = False,
) -> None:
    """Run a batch of solves; what the folder holds already is not run again.

    Without -o the folder is SPEC-results in the current one.
    """
    raise typer.Exit(batches.run(spec, output, retry=retry, as_json=as_json))


@app.command(short_help="Print a batch's results.")
def table(
    results: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of results.")],
    rows: Annotated[
        given.TableRows, typer.Option("--by", help="What a row is.")
    ] = given.TableRows.METHOD,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print as CSV.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print as Markdown.")
    ] = False,
    as_json: given.Json = False,
) -> None:
    """Print the results of a batch as a table."""
    wanted = [
        style
        for style, is_wanted in (
            (given.TableStyle.CSV, as_csv),
            (given.TableStyle.MARKDOWN, as_markdown),
            (given.TableStyle.JSON, as_json),
        )
        if is_wanted
    ]
    if len(wanted) > 1:
        complain("--csv, --markdown and --json exclude each other; give one of them")
        raise typer.Exit(WRONG_USAGE)
    style = wanted[0] if wanted else given.TableStyle.TEXT
    raise typer.Exit(batches.table(results, rows, style))


@app.command(short_help="Record the best values known.")
def record(
    schedules: Annotated[
        list[Path] | None,
        typer.Argument(metavar="SCHEDULE...", help="Schedule files."),
    ] = None,
    store: Annotated[
        Path, typer.Option(metavar="FILE", help="File of the best values known.")
    ] = Path("results/best-known.json"),
    check: Annotated[
        bool, typer.Option("--check", help="Only read the store and check it.")
    ] = False,
    as_json: given.Json = False,
    max_ops: given.MaxOps = given.DEFAULT_LIMITS.max_ops,
    max_bytes: given.MaxBytes = given.DEFAULT_LIMITS.max_bytes,
) -> None:
    """Record values and lower bounds of schedules that are better than those known.

    Nothing is written if the verifier refuses a schedule, or if a value and a bound
    exclude each other.
    """
    if check == bool(schedules):
        complain("record needs SCHEDULE..., or --check and none")
        raise typer.Exit(WRONG_USAGE)
    limits = Limits(max_ops, max_bytes)
    if schedules:
        code = recording.record(schedules, store, limits, as_json=as_json)
    else:
        code = recording.check(store, limits, as_json=as_json)
    raise typer.Exit(code)
