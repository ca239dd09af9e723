"""What torch's runtime holds while it runs a schedule on one GPU, beside a prediction.

The runtime keeps for every microbatch what a stage receives and the gradient that it
receives, from one step to the next, and with a split backward also the gradient of the
inputs until the step ends. All stages live on one device here, so these tensors are the
outputs and the gradients of the neighbour stages themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import distributed

from schedopt.baselines import BASELINES, run_baseline
from schedopt.build import build_graph
from schedopt.execute import Model, job_of
from schedopt.execute.pipelined import Pipelined
from schedopt.export import Program, program_of
from schedopt.formats import instance_from_document
from schedopt.instance import Backward, Instance, StageCost, exact
from schedopt.measure.documents import Pipeline, pipeline_document
from schedopt.measure.gpt import gpt_parts, gpt_stage, shape_of
from schedopt.measure.sizes import GptModel
from schedopt.measure.stages import ModelProfile, Settings, measure_stages
from schedopt.opgraph import Stream, StreamKind
from schedopt.schedule import Order
from schedopt.simulate import simulate

MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Of one schedule, bytes.

    ``level`` is what all ops leave behind at the fullest moment, weights included,
    ``workspace`` the most that an op takes beyond while it runs, ``kept`` what the
    runtime keeps that is not in the instance; the three were predicted.
    """

    schedule: str
    microbatches: int
    level: int
    workspace: int
    kept: int
    measured: int

    @property
    def predicted(self) -> int:
        return self.level + self.workspace + self.kept


def profile_of(model: GptModel, device: torch.device) -> ModelProfile:
    shape, parts = shape_of(model), gpt_parts(model.layers, model.stages)
    return measure_stages(
        parts,
        lambda number: gpt_stage(shape, parts[number], device),
        Settings(device, warmup=1, repetitions=1),
    )


def peak_of(
    model: GptModel,
    profile: ModelProfile,
    name: str,
    microbatches: int,
    device: torch.device,
) -> Peak:
    """Train for two steps with a hand-made schedule, all stages on one device."""
    form = Backward.SPLIT if name.startswith("zb") else Backward.WHOLE
    pipeline = Pipeline(
        name="one-device",
        source="",
        devices=1,
        microbatches=microbatches,
        backward=form,
    )
    document = pipeline_document(profile, pipeline)
    for stage, measured in zip(document["stages"], profile.stages, strict=True):
        stage["static_memory"] = measured.memory.weights_and_gradients / MEBIBYTE
    instance = instance_from_document(document, "one device")
    run = run_baseline(BASELINES[name], instance)
    assert len(run.derived.stages) == model.stages
    assert run.derived.backward is form
    program = program_of(run.derived, run.schedule)
    sent = profile.stages[0].output_bytes
    data, measured_peak = _measured(model, program, device)
    return Peak(
        schedule=name,
        microbatches=microbatches,
        level=_level(program, sent),
        workspace=max(s.memory.workspace[form] for s in profile.stages),
        kept=2 * (model.stages - 1) * microbatches * sent + data,
        measured=measured_peak,
    )


def _level(program: Program, sent: int) -> int:
    """The highest level, without what the runtime keeps anyhow."""
    instance = _without_transfers(program.instance, sent)
    graph = build_graph(instance)
    order = Order({Stream(StreamKind.COMPUTE, 0): program.rows[0]})
    (peak,) = simulate(graph, order).peak_memory
    return int(exact(graph.units.memory_of(peak)) * MEBIBYTE)


def _without_transfers(instance: Instance, sent: int) -> Instance:
    last = len(instance.stages) - 1
    size = sent / MEBIBYTE

    def without(number: int, stage: StageCost) -> StageCost:
        ends = (number > 0) + (number < last)
        return replace(
            stage,
            activation=stage.activation - ends * size,
            input_gradient=max(stage.input_gradient - ends * size, 0),
        )

    stages = tuple(without(*pair) for pair in enumerate(instance.stages))
    return replace(instance, stages=stages)


def _measured(
    model: GptModel, program: Program, device: torch.device
) -> tuple[int, int]:
    """Bytes of a step's data, and the peak of the second step."""
    before = _counter("current")
    job = job_of(program, Model.GPT, gpt=model)
    with TemporaryDirectory() as name, _alone(Path(name)):
        csv = Path(name) / "rows.csv"
        csv.write_text(job.csv)
        pipelined = Pipelined(job, 0, device, csv, getattr(torch, model.dtype))
        for stage in pipelined.stages:
            stage._get_init_p2p_neighbors_ops = list  # torch 2.11 greets even itself
        batch = pipelined.batch(0)
        pipelined.step(batch)
        torch.cuda.reset_peak_memory_stats(device)
        pipelined.step(batch)
        return batch.inputs.nbytes + batch.target.nbytes, _counter("peak") - before


def _counter(which: str) -> int:
    torch.cuda.synchronize()
    return int(torch.cuda.memory_stats()[f"requested_bytes.all.{which}"])


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """A process group of this process."""
    store = distributed.FileStore(str(folder / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()
