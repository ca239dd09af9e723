"""A profile as an instance's document, and as what ``--json`` prints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schedopt.formats.instance_model import INSTANCE_SCHEMA
from schedopt.instance import Backward, Number
from schedopt.measure.kfac import LayerKfac
from schedopt.measure.stages import ModelProfile, StageProfile
from schedopt.measure.timing import Spread
from schedopt.runtimes.measured import MEBIBYTE, mebibytes, tidy

Document = dict[str, Any]

TIME_UNIT, MEMORY_UNIT = "us", "MiB"
_FIELDS = {"F": "forward", "B": "backward", "I": "backward_input"}
_FIELDS["W"] = "backward_weight"
_KFAC_TIMES = (
    "curvature_a",
    "curvature_b",
    "inversion_a",
    "inversion_b",
    "precondition",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """What an instance says beside its stages' costs.

    ``state_bytes`` are those of the optimizer's state per parameter; ``latency`` is in
    microseconds, ``bandwidth`` in bytes per second.
    """

    name: str
    source: str
    devices: int
    microbatches: int
    backward: Backward
    memory_limit_mib: Number | None = None
    state_bytes: Number = 0
    latency: Number = 0
    bandwidth: Number | None = None


def pipeline_document(profile: ModelProfile, pipeline: Pipeline) -> Document:
    """The instance: medians of the times, in microseconds, and MiB."""
    stages = [_stage(stage, pipeline) for stage in profile.stages]
    return _instance_document(stages, pipeline)


def unmeasured_document(stages: int, pipeline: Pipeline) -> Document:
    """The instance with all times 1 and no sizes, to check the rest beforehand."""
    return _instance_document([dict.fromkeys(_FIELDS.values(), 1)] * stages, pipeline)


def _instance_document(
    stages: Sequence[Mapping[str, Any]], pipeline: Pipeline
) -> Document:
    document: Document = {
        "schema": INSTANCE_SCHEMA,
        "name": pipeline.name,
        "source": pipeline.source,
        "time_unit": TIME_UNIT,
        "memory_unit": MEMORY_UNIT,
        "microbatches": pipeline.microbatches,
        "devices": pipeline.devices,
        "placement": _placement(len(stages), pipeline.devices),
        "backward": pipeline.backward.value,
        "communication": {
            "mode": "lag",
            **{
                name: value
                for name, value in (
                    ("latency", pipeline.latency),
                    ("bandwidth", pipeline.bandwidth),
                )
                if value
            },
        },
        "stages": list(stages),
    }
    if pipeline.memory_limit_mib is not None:
        document["memory_limit"] = pipeline.memory_limit_mib
    return document


def profile_document(profile: ModelProfile) -> Document:
    """Every measured number, with quartiles; K-FAC's work in a table of its own."""
    return {
        "time_unit": TIME_UNIT,
        "memory_unit": MEMORY_UNIT,
        "stages": [
            {
                "name": stage.name,
                "stages": numbers,
                "times": {k: _spread(found) for k, found in stage.times.items()},
                "activation": mebibytes(stage.memory.activation),
                "activation_until_input": mebibytes(
                    stage.memory.activation_until_input
                ),
                "input_gradient": mebibytes(stage.memory.input_gradient),
                "workspace": {
                    form.value: mebibytes(size)
                    for form, size in stage.memory.workspace.items()
                },
                "weights_and_gradients": mebibytes(stage.memory.weights_and_gradients),
                "parameters": stage.memory.parameters,
                "output_bytes": stage.output_bytes,
            }
            for stage, numbers in profile.distinct
        ],
        "kfac": [
            {"stages": numbers, **_kfac(layer)}
            for stage, numbers in profile.distinct
            for layer in stage.kfac
        ],
    }


def _placement(stages: int, devices: int) -> str:
    return "looped" if stages > devices and stages % devices == 0 else "linear"


def _stage(stage: StageProfile, pipeline: Pipeline) -> Document:
    memory = stage.memory
    static = (
        memory.weights_and_gradients
        + pipeline.state_bytes * memory.parameters
        + memory.workspace[pipeline.backward]
    )
    return {
        **{
            field: tidy(round(stage.times[kind].median, 3))
            for kind, field in _FIELDS.items()
        },
        "activation": mebibytes(memory.activation),
        "activation_until_input": mebibytes(memory.activation_until_input),
        "input_gradient": mebibytes(memory.input_gradient),
        "static_memory": mebibytes(static),
        "output_bytes": stage.output_bytes,
        **_second_order(stage, pipeline.backward),
    }


def _second_order(stage: StageProfile, backward: Backward) -> Document:
    """What K-FAC does for the stage, if that was measured.

    A layer that runs several times in a forward has the shares of all of them. Inputs
    are a part of the activation, and count as far as there is so much of it: where a
    stage is checkpointed there is not.
    """
    if not stage.kfac:
        return {}
    runs: dict[str, list[LayerKfac]] = {}
    for layer in stage.kfac:
        runs.setdefault(layer.layer, []).append(layer)
    kept = stage.memory.activation
    if backward is not Backward.WHOLE:
        kept -= stage.memory.activation_until_input
    inputs = sum(layer.input_bytes for layer in stage.kfac)
    part = min(1, kept / inputs) if inputs else 0
    return {
        "precondition": _microseconds([of[0].precondition for of in runs.values()]),
        "modules": [_module(name, of, part) for name, of in runs.items()],
    }


def _module(name: str, runs: Sequence[LayerKfac], part: float) -> Document:
    """A layer, of whose inputs ``part`` waits in the activation."""
    first = runs[0]
    factor_a, factor_b = first.factor_bytes
    least = 10**6  # of which a MiB: the parts of an activation never exceed it
    saved = part * sum(run.input_bytes for run in runs) / MEBIBYTE
    return {
        # Ops are named after it; a stage may be a linear layer and nothing else.
        "name": re.sub(r'[:@,;"\s]', "_", name) or "linear",
        "curvature_a": _microseconds([run.curvature_a for run in runs]),
        "curvature_b": _microseconds([run.curvature_b for run in runs]),
        "inversion_a": _microseconds([first.inversion_a]),
        "inversion_b": _microseconds([first.inversion_b]),
        "saved_input": tidy(int(saved * least) / least),
        "saved_gradient": mebibytes(sum(run.gradient_bytes for run in runs)),
        "factor_a": mebibytes(factor_a),
        "factor_b": mebibytes(factor_b),
    }


def _microseconds(times: Sequence[Spread]) -> Number:
    return tidy(round(sum(time.median for time in times), 3))


def _spread(spread: Spread) -> Document:
    return {
        "median": tidy(spread.median),
        "lower_quartile": tidy(spread.lower),
        "upper_quartile": tidy(spread.upper),
        "repetitions": spread.count,
    }


def _kfac(layer: LayerKfac) -> Document:
    return {
        "layer": layer.layer,
        "tokens": layer.tokens,
        "size_a": layer.size_a,
        "size_b": layer.size_b,
        "factor_bytes": list(layer.factor_bytes),
        "input_bytes": layer.input_bytes,
        "gradient_bytes": layer.gradient_bytes,
        **{name: _spread(getattr(layer, name)) for name in _KFAC_TIMES},
    }
