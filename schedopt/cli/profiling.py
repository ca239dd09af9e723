"""``profile``: measures a model's stages with torch and writes their instance."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from schedopt.cli.exits import DONE
from schedopt.cli.instance_saving import (
    checked_instance,
    save_instance,
    solve_command,
)
from schedopt.cli.output import (
    complain,
    print_json,
    print_lines,
    print_rich,
    print_text,
)
from schedopt.cli.saving import check_writable
from schedopt.errors import MeasurementError
from schedopt.execute.processes import TORCH as TORCH_RELEASE
from schedopt.formats import Limits
from schedopt.formats.complaints import one_line
from schedopt.instance import Backward, Instance, Number
from schedopt.measure.model_file import model_document, model_path, save_model
from schedopt.measure.sizes import GptModel
from schedopt.report.quantities import number_text, share_text
from schedopt.report.summary import instance_lines

if TYPE_CHECKING:
    from schedopt.measure.documents import Pipeline
    from schedopt.measure.sample import StageUnderTest
    from schedopt.measure.stages import ModelProfile, Settings, StageProfile

Make = Callable[[int], "StageUnderTest"]
TORCH = "torch-csv"  # the runtime whose functions are measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How to measure, and where."""

    device: str
    threads: int | None
    warmup: int
    repetitions: int
    with_kfac: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineGiven:
    """What the instance says beside costs; None is left to this module."""

    name: str | None
    stages: int
    devices: int | None
    microbatches: int | None
    backward: Backward | None
    memory_limit: Number | None
    state_bytes: Number
    latency: Number
    bandwidth: Number | None


def profile(
    model: GptModel | str,
    measured: Measured,
    pipeline: PipelineGiven,
    output: Path | None,
    command: str,
    limits: Limits,
    *,
    as_json: bool,
) -> int:
    """Measure a model's stages; ``model`` is the built-in one or names a factory."""
    beside = _beside(output) if isinstance(model, GptModel) else None
    check_writable(output)
    check_writable(beside)
    _require_torch()
    import torch  # noqa: PLC0415 - an extra

    from schedopt.measure.documents import (  # noqa: PLC0415 - of torch
        pipeline_document,
        profile_document,
        unmeasured_document,
    )
    from schedopt.measure.stages import (  # noqa: PLC0415 - of torch
        Settings,
        describe,
        device_of,
        measure_stages,
    )

    if measured.threads is not None:
        torch.set_num_threads(measured.threads)
    device = device_of(measured.device)
    settings = Settings(
        device, measured.warmup, measured.repetitions, measured.with_kfac
    )
    keys, make = (
        _factory_stages(model, pipeline.stages, settings)
        if isinstance(model, str)
        else _gpt_stages(model, settings)
    )
    source = (
        f"measured by {command}; {describe(device)}; medians of"
        f" {measured.repetitions} repetitions after {measured.warmup} for warming up,"
        " each stage alone"
    )
    said = _pipeline(model, pipeline, source)
    # What does not depend on costs is refused before they are measured.
    checked_instance(unmeasured_document(len(keys), said), "the profile", limits)
    found = measure_stages(keys, make, settings)
    document = pipeline_document(found, said)
    instance = checked_instance(document, "the profile", limits)
    if as_json:
        report = profile_document(found)
        config = model_document(model) if isinstance(model, GptModel) else None
        print_json({**report, "instance": document, "model": config})
    else:
        _print(found, instance)
    _warn_of_other_torch(torch.__version__)
    for stage, _ in found.distinct:
        _warn(stage)
    if output is not None:
        save_instance(output, document, limits)
        written = str(output)
        if beside is not None and isinstance(model, GptModel):
            save_model(beside, model)
            written += f", and the model's sizes to {beside}"
        if not as_json:
            print_text(one_line(f"written to {written}"))
            print_text(f"next: {solve_command(output, TORCH)}")
    elif not as_json:
        print_text("next: give -o INSTANCE to write this as an instance")
    return DONE


def _beside(output: Path | None) -> Path | None:
    """Where the model's sizes go; nowhere if the instance goes to a pipe."""
    if output is None or (output.exists() and not output.is_file()):
        return None
    return model_path(output)


def _require_torch() -> None:
    # Its profiler would announce start and stop on stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    try:
        import torch  # noqa: F401, PLC0415 - an extra
    except ImportError:
        msg = "profile needs torch; install schedopt with the extra: schedopt[torch]"
        raise MeasurementError(msg) from None


def _gpt_stages(given: GptModel, settings: Settings) -> tuple[list[Hashable], Make]:
    """What tells the stages apart, and how one is made."""
    from schedopt.measure.gpt import (  # noqa: PLC0415 - of torch
        gpt_parts,
        gpt_stage,
        shape_of,
    )

    if given.hidden % given.heads:
        msg = f"--heads {given.heads}: must divide --hidden {given.hidden}"
        raise MeasurementError(msg)
    if given.layers < given.stages and not given.vocabulary:
        msg = (
            f"--layers {given.layers}: {given.stages} stages need a layer each at least"
        )
        raise MeasurementError(msg)
    shape = shape_of(given)
    parts = gpt_parts(given.layers, given.stages)

    def make(number: int) -> StageUnderTest:
        return gpt_stage(shape, parts[number], settings.device, compiled=given.compiled)

    return list(parts), make


def _factory_stages(
    name: str, stages: int, settings: Settings
) -> tuple[list[Hashable], Make]:
    from schedopt.measure.factory import (  # noqa: PLC0415 - of torch
        factory_stage,
        import_factory,
        takes_stage,
    )

    factory = import_factory(name)
    differ = takes_stage(factory, name)

    def make(number: int) -> StageUnderTest:
        stage = number if differ else None
        return factory_stage(factory, name, stage, stages, settings.device)

    return [number if differ else 0 for number in range(stages)], make


def _pipeline(model: GptModel | str, given: PipelineGiven, source: str) -> Pipeline:
    """What the instance says beside costs, with this module's defaults."""
    from schedopt.measure.documents import Pipeline  # noqa: PLC0415 - of torch

    recomputes = isinstance(model, GptModel) and (model.checkpointing or model.compiled)
    backward = given.backward or (Backward.WHOLE if recomputes else Backward.SPLIT)
    devices = given.devices or given.stages
    return Pipeline(
        name=given.name or ("gpt" if isinstance(model, GptModel) else model),
        source=source,
        devices=devices,
        microbatches=given.microbatches or 2 * devices,
        backward=backward,
        memory_limit_mib=given.memory_limit,
        state_bytes=given.state_bytes,
        latency=given.latency,
        bandwidth=given.bandwidth,
    )


def _print(found: ModelProfile, instance: Instance) -> None:
    print_lines(instance_lines(instance))
    print_text("")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.show_edge = False
    table.add_column("stage")
    titles = ("F", "I", "W", "B", "activation", "freed by I", "added by I", "static")
    for title in (*titles, "output"):
        table.add_column(title, justify="right", no_wrap=True)
    for profile_, numbers in found.distinct:
        cost = instance.stages[numbers[0]]
        times = [profile_.times[kind] for kind in "FIWB"]
        sizes = (
            cost.activation,
            cost.activation_until_input,
            cost.input_gradient,
            cost.static_memory,
        )
        table.add_row(
            _stage_text(numbers, profile_.name),
            *(f"{t.median:.0f} ±{share_text(t.relative / 2)}" for t in times),
            *(f"{float(size):.2f}" for size in sizes),
            number_text(profile_.output_bytes),
        )
    print_rich(table)
    print_text("")
    print_text(
        "Times in us: median, and half the distance between the quartiles as a share of"
        " it. Memory in MiB, output in bytes."
    )
    _print_kfac(found)


def _print_kfac(found: ModelProfile) -> None:
    if not any(stage.kfac for stage in found.stages):
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.show_edge = False
    table.add_column("stage")
    table.add_column("layer")
    titles = ("A", "B", "curvature A", "B ", "inversion A", "B  ", "precondition")
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for profile_, numbers in found.distinct:
        for layer in profile_.kfac:
            times = (
                layer.curvature_a,
                layer.curvature_b,
                layer.inversion_a,
                layer.inversion_b,
                layer.precondition,
            )
            table.add_row(
                _stage_text(numbers, ""),
                layer.layer,
                str(layer.size_a),
                str(layer.size_b),
                *(f"{time.median:.0f}" for time in times),
            )
    print_text("")
    print_rich(table)
    print_text("")
    print_text("K-FAC: sizes of the factors A and B, and medians in us.")


def _stage_text(numbers: list[int], name: str) -> str:
    """0, or 1-6 where they follow each other."""
    first, last = numbers[0], numbers[-1]
    if len(numbers) > 1 and numbers == list(range(first, last + 1)):
        text = f"{first}-{last}"
    else:
        text = ",".join(map(str, numbers))
    return f"{text} ({name})" if name else text


def _warn_of_other_torch(version: str) -> None:
    if not version.startswith(f"{TORCH_RELEASE}."):
        complain(
            f"warning: torch {version} is installed, and what its pipeline runtime runs"
            f" and keeps is known as of {TORCH_RELEASE} here; pip install"
            " 'schedopt[torch]' brings that one"
        )


def _warn(stage: StageProfile) -> None:
    if stage.scattered:
        complain(
            f"warning: {stage.name}: the times of {', '.join(stage.scattered)} scatter"
            " much (the quartiles are more than 25 % of the median apart); is the"
            " machine busy with something else? Raise --repetitions or try again"
        )
    if stage.launching:
        complain(
            f"warning: {stage.name}: the GPU waits for the CPU in"
            f" {', '.join(stage.launching)}, whose times are those of launching them;"
            " a larger microbatch fills the GPU"
        )
