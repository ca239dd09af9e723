"""The built-in GPT by its sizes, without torch: what is measured, and then executed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GptModel:
    """A GPT and one microbatch of it, cut into stages.

    Attributes
    ----------
    stages, layers : int
        The layers are spread over the stages, the first ones having one more.
    hidden, heads, sequence, microbatch_size, mlp_ratio : int
        Width, attention heads, tokens per sequence, sequences per microbatch, and width
        of the MLP over ``hidden``.
    dtype : str
        torch's name of the type of weights and hidden states.
    vocabulary : int
        0: no embedding, no output layer; stages take and give hidden states.
    checkpointing, compiled : bool
        Whether blocks are recomputed in their backward, and stages compiled.
    """

    stages: int
    layers: int
    hidden: int
    heads: int
    sequence: int
    microbatch_size: int
    dtype: str
    vocabulary: int
    mlp_ratio: int
    checkpointing: bool
    compiled: bool
