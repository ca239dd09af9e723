"""A plain GPT cut into stages: the model that is measured where none is given.

Pre-norm blocks (layer norm, causal self-attention, layer norm, MLP of GELU) as in GPT-2
(Radford et al., 2019); token and position embeddings on the first stage, a last layer
norm, an output layer of its own weights and the cross entropy on the last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from schedopt.measure.sample import StageUnderTest
from schedopt.measure.sizes import GptModel


@dataclass(frozen=True, slots=True, kw_only=True)
class GptShape:
    """Sizes of the model and of a microbatch.

    ``vocabulary`` 0 leaves out embedding, output layer and loss: then stages take and
    give hidden states. ``checkpointing`` recomputes each block in its backward.
    """

    hidden: int
    heads: int
    sequence: int
    microbatch_size: int
    dtype: torch.dtype
    vocabulary: int = 0
    mlp_ratio: int = 4
    checkpointing: bool = False


@dataclass(frozen=True, slots=True)
class GptPart:
    """What a stage consists of; stages of equal parts cost the same."""

    blocks: int
    is_first: bool
    is_last: bool

    @property
    def name(self) -> str:
        """What tables call it."""
        words = ["first"] * self.is_first + ["last"] * self.is_last or ["middle"]
        return f"{' and '.join(words)}, {self.blocks} block{'s' * (self.blocks != 1)}"


def shape_of(model: GptModel) -> GptShape:
    """The sizes of a model as its modules are made of."""
    return GptShape(
        hidden=model.hidden,
        heads=model.heads,
        sequence=model.sequence,
        microbatch_size=model.microbatch_size,
        dtype=getattr(torch, model.dtype),
        vocabulary=model.vocabulary,
        mlp_ratio=model.mlp_ratio,
        checkpointing=model.checkpointing,
    )


def gpt_parts(layers: int, stages: int) -> list[GptPart]:
    """The layers spread over the stages, the first ones having one more."""
    share, longer = divmod(layers, stages)
    return [
        GptPart(share + (stage < longer), stage == 0, stage == stages - 1)
        for stage in range(stages)
    ]


def gpt_stage(
    shape: GptShape, part: GptPart, device: torch.device, *, compiled: bool = False
) -> StageUnderTest:
    """A stage with random weights and a random microbatch; the same every time."""
    torch.manual_seed(0)
    is_first = part.is_first
    with device:  # drawing the weights of a large stage on the CPU takes long
        module: nn.Module = GptStage(shape, part).to(shape.dtype)
    tokens = (shape.microbatch_size, shape.sequence)
    loss = None
    if shape.vocabulary and part.is_last:
        target = torch.randint(shape.vocabulary, tokens, device=device)
        loss = partial(token_loss, target=target)
    if shape.vocabulary and is_first:
        inputs = torch.randint(shape.vocabulary, tokens, device=device)
    else:
        inputs = torch.randn(*tokens, shape.hidden, device=device).to(shape.dtype)
    if compiled:
        module.compile()
    return StageUnderTest(
        name=part.name, module=module, inputs=(inputs,), loss=loss, is_first=is_first
    )


class GptStage(nn.Module):
    """Some blocks, perhaps with the embedding before or the output layer behind."""

    def __init__(self, shape: GptShape, part: GptPart) -> None:
        super().__init__()
        with_ends = shape.vocabulary > 0
        self.embedding = Embedding(shape) if with_ends and part.is_first else None
        self.blocks = nn.ModuleList(Block(shape) for _ in range(part.blocks))
        self.head = Head(shape) if with_ends and part.is_last else None
        self.checkpointing = shape.checkpointing

    def forward(self, hidden: Tensor) -> Tensor:
        """Tokens or hidden states to hidden states or logits."""
        if self.embedding is not None:
            hidden = self.embedding(hidden)
        for block in self.blocks:
            if self.checkpointing:
                hidden = checkpoint(block, hidden, use_reentrant=False)
            else:
                hidden = block(hidden)
        return hidden if self.head is None else self.head(hidden)


class Embedding(nn.Module):
    """Of tokens and of positions."""

    def __init__(self, shape: GptShape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.positions = nn.Embedding(shape.sequence, shape.hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """(sequences, tokens) to (sequences, tokens, hidden)."""
        summed: Tensor = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return summed


class Head(nn.Module):
    """Layer norm and output layer."""

    def __init__(self, shape: GptShape) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.hidden)
        self.output = nn.Linear(shape.hidden, shape.vocabulary, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states to logits."""
        logits: Tensor = self.output(self.norm(hidden))
        return logits


class Block(nn.Module):
    """A transformer block."""

    def __init__(self, shape: GptShape) -> None:
        super().__init__()
        hidden, inner = shape.hidden, shape.mlp_ratio * shape.hidden
        self.heads = shape.heads
        self.before_attention = nn.LayerNorm(hidden)
        self.queries_keys_values = nn.Linear(hidden, 3 * hidden)
        self.attention_out = nn.Linear(hidden, hidden)
        self.before_mlp = nn.LayerNorm(hidden)
        self.mlp_in = nn.Linear(hidden, inner)
        self.mlp_out = nn.Linear(inner, hidden)

    def forward(self, hidden: Tensor) -> Tensor:
        """(sequences, tokens, hidden) to the same."""
        hidden = hidden + self._attend(self.before_attention(hidden))
        inner = functional.gelu(self.mlp_in(self.before_mlp(hidden)))
        return hidden + self.mlp_out(inner)

    def _attend(self, hidden: Tensor) -> Tensor:
        count, tokens, _ = hidden.shape
        split = self.queries_keys_values(hidden).view(count, tokens, 3, self.heads, -1)
        queries, keys, values = split.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            queries, keys, values, is_causal=True
        )
        attended: Tensor = self.attention_out(
            mixed.transpose(1, 2).reshape(hidden.shape)
        )
        return attended


def token_loss(logits: Tensor, target: Tensor) -> Tensor:
    """The mean cross entropy of predicted tokens, in float32 or float64."""
    scores = logits.flatten(0, -2)
    if scores.dtype is not torch.float64:
        scores = scores.float()
    loss: Tensor = functional.cross_entropy(scores, target.flatten())
    return loss
