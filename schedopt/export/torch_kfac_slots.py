"""K-FAC in the slots of rows that schedopt exported, on torch.distributed.pipelining.

    slots = KfacSlots(runtime, pipeline, "NAME.kfac.json", layers, update=update)
    for step in range(steps):
        slots.step(step, inputs, target=targets, losses=losses)

``runtime`` is a ``_PipelineScheduleRuntime`` of this rank's ``pipeline`` (its
``PipelineStage`` objects, not FSDP modules) with ``scale_grads=True`` and a loss that
is the mean of a microbatch; ``run_torch_kfac.py`` beside this file makes one.
``layers`` has for each of its stages the ``nn.Linear`` of each name in the table, and
``update(stage)`` is the optimizer's step on a stage's parameters, after which their
gradients are forgotten.

The table lists one file of rows per step and what each slot ``<stage>UNSHARD<number>``
does. Everything happens where it stands in the rows:

* CURVATURE_A, CURVATURE_B: a microbatch's share, ``a^T a`` of a layer's inputs (a 1 is
  added for the bias) or ``g^T g`` of the gradients of its outputs, with which its data
  is let go;
* INVERSION: the inverse of the factor's mean plus ``damping`` times the identity;
* PRECONDITION: the gradients of every layer of the stage that has both inverses, as
  they are at that moment: ``B^-1 G A^-1``;
* STEP: ``update``.

Steps that the table calls ``repeated`` come again and again, unless ``forever`` is
False: then the training ends with the table's last step. ``observe`` is called after
every slot. The stages that the table calls ``recomputed`` have activation
checkpointing, and their inputs are taken when the backward recomputes them.

The mean of B is that of the rows' own losses: a microbatch's loss is the mean over its
rows. Needs torch and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.pipelining.schedules import _ComputationType

FORMAT = "schedopt/torch-kfac/v1"
NOTATION = re.compile(r"(?:(\d+)@)?(\d+)([A-Z_]+?)(\d+)(?::(.+))?")
SIDE_OF = {"CURVATURE_A": "A", "CURVATURE_B": "B"}


class SlotOp(NamedTuple):
    """What a slot does; ``step`` is that of its data, ``part`` the layer or factor."""

    step: int
    stage: int
    kind: str
    microbatch: int
    part: str

    def __str__(self) -> str:
        step = f"{self.step}@" if self.step else ""
        part = f":{self.part}" if self.part else ""
        return f"{step}{self.stage}{self.kind}{self.microbatch}{part}"

    @classmethod
    def parse(cls, text: str) -> SlotOp:
        """Read the table's notation."""
        match = NOTATION.fullmatch(text)
        if match is None:
            msg = f"{text!r} is no op"
            raise ValueError(msg)
        step, stage, kind, microbatch, part = match.groups()
        return cls(int(step or 0), int(stage), kind, int(microbatch), part or "")

    @property
    def factor(self) -> str:
        """The factor that a curvature op adds to."""
        return f"{self.part}.{SIDE_OF[self.kind]}"


@dataclass
class Factor:
    """A factor as far as it has come, and the newest inverse.

    ``total`` is the sum over ``shares`` microbatches of ``step``, which had so many
    ``rows``; ``inverse_step`` is the step of the inverse's data.
    """

    total: Tensor | None = None
    shares: int = 0
    rows: int = 0
    step: int = -1
    is_inverted: bool = True
    inverse: Tensor | None = None
    inverse_step: int = -1


class Waiting(NamedTuple):
    """Which data waits: the step, and whose it is."""

    step: int
    stage: int
    factor: str
    microbatch: int


class KfacSlots:
    """The second-order work of a rank's stages."""

    def __init__(  # noqa: PLR0913 (the first four are what it works on)
        self,
        runtime: Any,
        pipeline: Sequence[Any],
        table: str | Path,
        layers: Mapping[int, Mapping[str, nn.Linear]],
        *,
        update: Callable[[int], None],
        damping: float = 0.1,
        forever: bool = True,
        observe: Callable[[SlotOp], None] | None = None,
    ) -> None:
        document = json.loads(Path(table).read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            msg = f"{table}: the format is {document['format']!r}, not {FORMAT}"
            raise ValueError(msg)
        self.folder = Path(table).parent
        self.files: list[str] = document["steps"]
        self.repeated: list[int] | None = document["repeated"] if forever else None
        self.microbatches: int = document["microbatches"]
        self.slots = [
            [SlotOp.parse(text) for text in texts] for texts in document["slots"]
        ]
        self.runtime = runtime
        self.layers = layers
        self.update = update
        self.damping = damping
        self.recomputed = frozenset(document["recomputed"])
        self.observe = observe
        self.factors: dict[tuple[int, str], Factor] = {
            (stage, f"{name}.{side}"): Factor()
            for stage, of_stage in layers.items()
            for name in of_stage
            for side in "AB"
        }
        self.waiting: dict[Waiting, Tensor] = {}
        self.most_waiting = 0
        self.executed = 0
        self._number = 0  # of the training step
        self._shift = 0  # from steps of the table to those of the training
        self._wanted: frozenset[Waiting] = frozenset()
        self._here: tuple[str, int] | None = None  # forward or backward, microbatch
        runtime.register_custom_function(_ComputationType.UNSHARD, self._run)
        for stage in pipeline:
            self._watch(stage)

    def step(self, number: int, *arguments: Any, **named: Any) -> Any:
        """Training step ``number``, from 0; all else goes to the runtime's ``step``.

        Beyond the steps of the table those that it calls ``repeated`` come again and
        again, and from the end of the first round on.
        """
        row = self._row_of(number)
        self._number, self._shift = number, number - row
        self._wanted = frozenset(
            Waiting(number, op.stage, op.factor, op.microbatch)
            for ops in self.slots
            for op in ops
            if op.kind in SIDE_OF and op.step == row
        )
        # There is no public way to load rows.
        self.runtime._load_csv(  # noqa: SLF001
            str(self.folder / self.files[row]), format="compute_comms"
        )
        return self.runtime.step(*arguments, **named)

    def factor(self, stage: int, name: str) -> Factor:
        """A factor of a stage here: ``"LAYER.A"`` or ``"LAYER.B"``."""
        return self.factors[stage, name]

    def _row_of(self, number: int) -> int:
        """Which of the table's steps a step of the training is."""
        if self.repeated is None:
            if number < len(self.files):
                return number
            msg = (
                f"step {number}: the schedule has {len(self.files)} steps, and none"
                " that repeat; unroll two refreshes"
            )
            raise ValueError(msg)
        first, after = self.repeated
        if number < after:
            return number
        return first + (number - first) % (after - first)

    # -- data -----------------------------------------------------------------

    def _watch(self, stage: Any) -> None:
        """See which microbatch a stage is at, and take what its layers are given."""
        number = stage.stage_index
        for name in ("forward_one_chunk", "backward_one_chunk"):
            setattr(stage, name, self._noting(name[0], getattr(stage, name)))
        for name, layer in self.layers[number].items():
            layer.register_forward_pre_hook(self._input_hook(number, f"{name}.A"))
            layer.register_forward_hook(self._output_hook(number, f"{name}.B"))

    def _noting(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noting(microbatch: int, *arguments: Any, **named: Any) -> Any:
            self._here = what, microbatch
            try:
                return function(microbatch, *arguments, **named)
            finally:
                self._here = None

        return noting

    def _input_hook(self, stage: int, factor: str) -> Callable[..., None]:
        # What is recomputed is there when the backward runs the forward again.
        phase = "b" if stage in self.recomputed else "f"

        def take(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if self._here is not None and self._here[0] == phase:
                self._keep(stage, factor, self._here[1], inputs[0])

        return take

    def _output_hook(self, stage: int, factor: str) -> Callable[..., None]:
        def watch(_: nn.Module, __: Any, output: Tensor) -> None:
            if self._here is None or self._here[0] != "f" or not output.requires_grad:
                return
            microbatch = self._here[1]
            taken = False

            def take(gradient: Tensor) -> None:
                nonlocal taken
                if not taken:  # a split backward may come past twice
                    taken = True
                    self._keep(stage, factor, microbatch, gradient)

            output.register_hook(take)

        return watch

    def _keep(self, stage: int, factor: str, microbatch: int, data: Tensor) -> None:
        key = Waiting(self._number, stage, factor, microbatch)
        if key in self._wanted:
            self.waiting[key] = data.detach()
            self.most_waiting = max(self.most_waiting, len(self.waiting))

    # -- work -----------------------------------------------------------------

    def _run(self, action: Any, _: Any) -> None:
        """A slot's work; torch calls it where the token stands."""
        stage, number = action.stage_index, action.microbatch_index
        op = self.slots[stage][number]
        op = op._replace(step=op.step + self._shift)
        if op.step < 0:
            return  # of a refresh before the first one
        work = {
            "CURVATURE_A": self._add_share,
            "CURVATURE_B": self._add_share,
            "INVERSION": self._invert,
            "PRECONDITION": self._precondition,
            "STEP": self._update,
        }[op.kind]
        try:
            with torch.no_grad():
                work(op)
        except _NotReadyError as error:
            msg = f"step {self._number}, slot {action}, {op}: {error}"
            raise RuntimeError(msg) from None
        self.executed += 1
        if self.observe is not None:
            self.observe(op)

    def _add_share(self, op: SlotOp) -> None:
        key = Waiting(op.step, op.stage, op.factor, op.microbatch)
        data = self.waiting.pop(key, None)
        if data is None:
            msg = "its data is not there: it stands before what makes it, or twice"
            raise _NotReadyError(msg)
        data = data.reshape(-1, data.shape[-1])
        if op.kind == "CURVATURE_A" and self._layer(op).bias is not None:
            data = torch.cat([data, data.new_ones(len(data), 1)], dim=1)
        factor = self.factors[op.stage, op.factor]
        if factor.step != op.step:
            if not factor.is_inverted:
                msg = f"the factor of step {factor.step} has not been inverted"
                raise _NotReadyError(msg)
            factor.total, factor.shares, factor.rows = None, 0, 0
            factor.step, factor.is_inverted = op.step, False
        share = data.T @ data
        factor.total = share if factor.total is None else factor.total + share
        factor.shares += 1
        factor.rows += len(data)

    def _invert(self, op: SlotOp) -> None:
        factor = self.factors[op.stage, op.part]
        shares = factor.shares if factor.step == op.step else 0
        if shares != self.microbatches or factor.total is None:
            msg = f"the factor has {shares} of {self.microbatches} shares"
            raise _NotReadyError(msg)
        if op.part.endswith(".A"):
            mean = factor.total / factor.rows
        else:
            mean = factor.total * (factor.rows / self.microbatches**2)
        damped = mean + self.damping * torch.eye(
            len(mean), dtype=mean.dtype, device=mean.device
        )
        factor.inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        factor.inverse_step = op.step
        factor.is_inverted = True

    def _precondition(self, op: SlotOp) -> None:
        for name, layer in self.layers[op.stage].items():
            inputs, outputs = (
                self.factors[op.stage, f"{name}.{side}"].inverse for side in "AB"
            )
            if inputs is None or outputs is None:
                continue
            if layer.weight.grad is None:
                msg = f"{name} has no gradient"
                raise _NotReadyError(msg)
            gradients = [layer.weight.grad]
            if layer.bias is not None:
                gradients.append(layer.bias.grad[:, None])
            result = outputs @ torch.cat(gradients, dim=1) @ inputs
            layer.weight.grad.copy_(result[:, : layer.in_features])
            if layer.bias is not None:
                layer.bias.grad.copy_(result[:, -1])

    def _update(self, op: SlotOp) -> None:
        self.update(op.stage)

    def _layer(self, op: SlotOp) -> nn.Linear:
        return self.layers[op.stage][op.part]


class _NotReadyError(Exception):
    """A slot stands before what it needs."""
