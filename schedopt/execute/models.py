"""The models that executed schedules train: small, and the same everywhere.

A model is a row of stages, each drawn from the seed and its own number, so that every
rank can make any of them. Imported in the ranks' processes only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from schedopt.execute.choices import Model
from schedopt.execute.job import Job
from schedopt.execute.sleeping import SleepingStage, Timeline
from schedopt.measure.gpt import GptStage, gpt_parts, shape_of, token_loss

WIDTH = 16
HEADS = 2
TOKENS = 8  # per sequence
VOCABULARY = 13
SEQUENCES = 2  # per microbatch

COMPARED = torch.float64
"""The type in which results are compared, whatever the model's own is."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The input and the target of one step, microbatch after microbatch."""

    inputs: Tensor
    target: Tensor


class Attention(nn.Module):
    """Causal self-attention, (sequences, tokens, width) to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.queries_keys_values = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor) -> Tensor:
        """Attend to what came before."""
        count, tokens, _ = hidden.shape
        heads = self.queries_keys_values(hidden).view(count, tokens, 3, HEADS, -1)
        queries, keys, values = heads.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(
            queries, keys, values, is_causal=True
        )
        return self.out(attended.transpose(1, 2).reshape(hidden.shape))


class TransformerBlock(nn.Module):
    """Layer norm before attention and before the MLP, with residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.before_mlp = nn.LayerNorm(WIDTH)
        self.mlp = _mlp()

    def forward(self, hidden: Tensor) -> Tensor:
        """One block."""
        hidden = hidden + self.attention(self.before_attention(hidden))
        return hidden + self.mlp(self.before_mlp(hidden))


class MlpBlock(nn.Module):
    """Two layers with layer norm before and a residual around them."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.LayerNorm(WIDTH)
        self.mlp = _mlp()

    def forward(self, hidden: Tensor) -> Tensor:
        """One block."""
        return hidden + self.mlp(self.before(hidden))


class Recomputed(nn.Module):
    """Keeps its input only, and runs its forward again in the backward."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, value: Tensor) -> Tensor:
        """The same as the module inside."""
        result: Tensor = checkpoint(self.inside, value, use_reentrant=False)
        return result


def _mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
    )


def stage_of(
    job: Job,
    stage: int,
    timeline: Timeline | None = None,
    dtype: torch.dtype = COMPARED,
) -> nn.Module:
    """A stage of a job's model; the same weights whenever it is made.

    With a timeline, a stage of the model ``sleep`` sleeps and notes when; without one
    it computes the same and does not sleep.
    """
    torch.manual_seed(1000 * job.seed + stage)
    last = len(job.device_of_stage) - 1
    if job.model is Model.SLEEP:
        return SleepingStage(job, stage, timeline, WIDTH).double()
    layers: list[nn.Module] = []
    if job.gpt is not None:
        part = gpt_parts(job.gpt.layers, job.gpt.stages)[stage]
        layers.append(GptStage(shape_of(job.gpt), part))
    elif job.model is Model.MLP:
        layers += [MlpBlock() for _ in range(job.blocks)]
    else:
        if stage == 0:
            layers.append(nn.Embedding(VOCABULARY, WIDTH))
        layers += [TransformerBlock() for _ in range(job.blocks)]
        if stage == last:
            layers += [nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY)]
    if timeline is not None and stage in job.recompute:
        layers = [Recomputed(nn.Sequential(*layers))]
    return nn.Sequential(*layers).to(dtype)


def batch_of(job: Job, step: int, dtype: torch.dtype = COMPARED) -> Batch:
    """The data of a training step; the same whenever it is made."""
    generator = torch.Generator().manual_seed(1000 * job.seed + 500 + step)
    count, *inner = _microbatch(job)
    sequences = count * job.microbatches
    vocabulary = _vocabulary(job)
    if vocabulary:
        size = (sequences, inner[0] + 1)
        text = torch.randint(vocabulary, size, generator=generator)
        return Batch(text[:, :-1].contiguous(), text[:, 1:].contiguous())
    both = torch.randn((2, sequences, *inner), generator=generator, dtype=COMPARED)
    return Batch(both[0].to(dtype), both[1].to(dtype))


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of predicted tokens, or the mean square error."""
    if target.dtype == torch.int64:
        return token_loss(output, target)
    return functional.mse_loss(output, target)


def boundary_of(
    job: Job, stage: int, dtype: torch.dtype = COMPARED
) -> tuple[Tensor, Tensor]:
    """What goes into a stage and comes out of it, by shape and type; one microbatch.

    Given to torch, so that it need not run the stage once to see them.
    """
    shape = _microbatch(job)
    hidden = torch.empty(shape, dtype=dtype, requires_grad=True)
    inputs = batch_of(job, 0, dtype).inputs[: shape[0]] if stage == 0 else hidden
    if _vocabulary(job) and stage == len(job.device_of_stage) - 1:
        logits = (*shape[:-1], _vocabulary(job))
        return inputs, torch.empty(logits, dtype=dtype, requires_grad=True)
    return inputs, hidden


def _microbatch(job: Job) -> tuple[int, ...]:
    """The shape of what goes from stage to stage; the width is last."""
    if job.gpt is not None:
        return job.gpt.microbatch_size, job.gpt.sequence, job.gpt.hidden
    if job.model is Model.TRANSFORMER:
        return SEQUENCES, TOKENS, WIDTH
    return SEQUENCES, WIDTH


def _vocabulary(job: Job) -> int:
    """How many tokens there are; 0 if the model takes and gives numbers."""
    if job.gpt is not None:
        return job.gpt.vocabulary
    return VOCABULARY if job.model is Model.TRANSFORMER else 0
