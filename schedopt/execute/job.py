"""What the ranks are told to execute: rows, a model, and how long ops sleep."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from schedopt.errors import ExportError
from schedopt.execute.choices import TRACED_STEPS, Comms, Model
from schedopt.execute.kfac_plan import KfacPlan, plan_of
from schedopt.execute.prediction import Prediction, predict
from schedopt.export.checking import faults
from schedopt.export.formats import as_exported
from schedopt.export.kfac_rows import KfacRows, kfac_rows
from schedopt.export.lowering import lower
from schedopt.export.program import Program
from schedopt.export.torch_rows import compute_only_csv, compute_rows
from schedopt.export.torch_tokens import text_of
from schedopt.measure.sizes import GptModel

MEAN_SLEEP_S = 0.05
"""How long ops sleep on average where no scale is given: long against what the runtime
itself needs per op, about a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One schedule for the ranks to execute.

    Attributes
    ----------
    name : str
        For messages.
    csv : str
        The rows, one per rank: the file that torch loads.
    has_comms : bool
        Whether the rows have sends and receives (torch's format ``compute_comms``).
    recompute : tuple of int
        The stages that keep only their input and run their forward again.
    device_of_stage : tuple of int
        The rank of each stage.
    microbatches : int
        How many a step has.
    model, blocks, seed
        What the stages compute, how many blocks each has, and what weights and data are
        drawn from.
    gpt : GptModel or None
        The sizes of the model ``gpt``; None but for it.
    steps : int
        Training steps that are compared; with ``sleep`` the first is not timed.
    trace : str or None
        The folder into which every rank writes a trace of further steps, which are not
        compared, in the model's own type.
    traced_steps : int
        How many those are.
    sleep_s : dict
        Seconds that each op sleeps, by notation; empty but for ``sleep``.
    predicted_s : float or None
        How long a step is predicted to take; None but for ``sleep``.
    kfac : KfacPlan or None
        The second-order work of all steps, if there is some; ``csv`` then has the rows
        of the first step.
    """

    name: str
    csv: str
    device_of_stage: tuple[int, ...]
    microbatches: int
    has_comms: bool = False
    recompute: tuple[int, ...] = ()
    model: Model = Model.TRANSFORMER
    blocks: int = 1
    seed: int = 0
    gpt: GptModel | None = None
    steps: int = 2
    trace: str | None = None
    traced_steps: int = 0
    sleep_s: dict[str, float] = field(default_factory=dict)
    predicted_s: float | None = None
    kfac: KfacPlan | None = None

    @property
    def ranks(self) -> int:
        """How many processes execute it."""
        return len(self.csv.splitlines())

    @property
    def all_steps(self) -> int:
        """Compared and traced."""
        return self.steps + self.traced_steps

    @property
    def dtype(self) -> str:
        """The type of the traced model, as torch names it."""
        return "float64" if self.gpt is None else self.gpt.dtype

    def document(self) -> dict[str, Any]:
        """As JSON has it; ``Job.from_document`` reads it."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Job:
        """The inverse of ``document``."""
        return cls(
            **{
                **document,
                "device_of_stage": tuple(document["device_of_stage"]),
                "recompute": tuple(document["recompute"]),
                "model": Model(document["model"]),
                "gpt": document["gpt"] and GptModel(**document["gpt"]),
                "kfac": document["kfac"] and KfacPlan.from_document(document["kfac"]),
            }
        )


LINEAR_LAYERS = {Model.TRANSFORMER: 4, Model.MLP: 2}
"""How many linear layers a block has; those of the models that K-FAC is run with."""


def trace_name(rank: int) -> str:
    """What the file with a rank's trace is called; ``schedopt import`` reads it."""
    return f"rank{rank}.json.gz"


def job_of(  # noqa: PLR0913 (one argument per choice)
    program: Program,
    model: Model = Model.TRANSFORMER,
    *,
    comms: Comms = Comms.TORCH,
    blocks: int = 1,
    seed: int = 0,
    gpt: GptModel | None = None,
    steps: int | None = None,
    trace: Path | None = None,
    traced_steps: int = TRACED_STEPS,
    sleep_scale: float | None = None,
) -> Job:
    """The job that executes a program with a model.

    Parameters
    ----------
    gpt
        The sizes of the model ``gpt``, for that model only.
    steps
        None: two, and with ``sleep`` one more than the three that are timed.
    trace
        A folder for one trace per rank, ``rank0.json.gz`` and so on, of
        ``traced_steps`` further steps.
    sleep_scale
        Seconds slept per second of the instance. None: so that ops sleep
        ``MEAN_SLEEP_S`` on average.

    Raises
    ------
    ExportError
        If torch would refuse the rows, or come to other results with them, or the model
        has another number of stages.
    """
    if gpt is not None and gpt.stages != len(program.device_of_stage):
        msg = (
            f"has {len(program.device_of_stage)} stages, and the model {gpt.stages};"
            " give the model that its instance was measured with"
        )
        raise ExportError(msg)
    if program.instance.kfac is not None:
        if model not in LINEAR_LAYERS or trace is not None:
            msg = (
                "has K-FAC work, which is executed with the models"
                f" {' and '.join(LINEAR_LAYERS)}, and not traced"
            )
            raise ExportError(msg)
        return kfac_job(kfac_rows(program), model, seed=seed, steps=steps)
    program = _exported(program)
    prediction = predict(program) if model is Model.SLEEP else None
    slept: dict[str, float] = {}
    predicted_s = None
    if prediction is not None:
        scale = _default_scale(prediction) if sleep_scale is None else sleep_scale
        slept = {op: s * scale for op, s in prediction.op_s.items()}
        predicted_s = prediction.step_s * scale
    return Job(
        name=program.name,
        csv=_csv(program, comms),
        has_comms=comms is Comms.OWN,
        recompute=tuple(sorted(program.instance.recompute)),
        device_of_stage=program.device_of_stage,
        microbatches=program.microbatches,
        model=model,
        blocks=blocks,
        seed=seed,
        gpt=gpt,
        trace=None if trace is None else str(trace.resolve()),
        traced_steps=0 if trace is None else traced_steps,
        steps=steps or (4 if model is Model.SLEEP else 2),
        sleep_s=slept,
        predicted_s=predicted_s,
    )


def kfac_job(
    rows: KfacRows,
    model: Model = Model.TRANSFORMER,
    *,
    seed: int = 0,
    steps: int | None = None,
) -> Job:
    """The job that executes a training with K-FAC.

    The first linear layers of a stage are preconditioned, as many as the schedule has
    layers; the stage has as many blocks as that takes.

    Parameters
    ----------
    steps
        None: those of the schedule. A number: so many, and those that repeat come again
        and again.

    Raises
    ------
    ExportError
        If steps should repeat and none do.
    """
    program = rows.program
    plan = plan_of(rows, steps)
    most = max(map(len, plan.layers))
    return Job(
        name=program.name,
        csv=text_of(rows.steps[0]),
        has_comms=True,
        recompute=tuple(sorted(program.instance.recompute)),
        device_of_stage=program.device_of_stage,
        microbatches=program.microbatches,
        model=model,
        blocks=max(1, -(-most // LINEAR_LAYERS[model])),
        seed=seed,
        steps=plan.steps,
        kfac=plan,
    )


def _csv(program: Program, comms: Comms) -> str:
    if comms is Comms.OWN:
        return text_of(lower(program).rows)
    return compute_only_csv(program)


def _default_scale(prediction: Prediction) -> float:
    lasting = [seconds for seconds in prediction.op_s.values() if seconds]
    if not lasting:
        return 1.0
    return MEAN_SLEEP_S * len(lasting) / sum(lasting)


def _exported(program: Program) -> Program:
    """The rows that ``schedopt export torch-csv`` writes, once they pass the check."""
    exported = as_exported(program, "torch-csv")
    found = faults(
        compute_rows(exported),
        microbatches=exported.microbatches,
        rank_of_stage=exported.device_of_stage,
        lists_transfers=False,
    )
    if found:
        raise ExportError(str(found[0]))
    return exported
