"""What a user chooses for an execution; imports nothing, for the command line."""

from __future__ import annotations

from enum import StrEnum


class Model(StrEnum):
    """What the stages compute; its results are compared in float64.

    ``transformer``: embedding, blocks of layer norm, causal attention and MLP, and a
    head. ``mlp``: residual two-layer blocks. ``sleep``: one weight per column and
    stage, and every op sleeps for as long as the instance says. ``gpt``: what
    ``schedopt profile`` has measured.
    """

    TRANSFORMER = "transformer"
    MLP = "mlp"
    SLEEP = "sleep"
    GPT = "gpt"


class Comms(StrEnum):
    """Who puts sends and receives into the rows: torch when it loads them, or we."""

    TORCH = "torch"
    OWN = "own"


class Backend(StrEnum):
    """How tensors travel: ``gloo`` between processes, ``nccl`` between GPUs."""

    GLOO = "gloo"
    NCCL = "nccl"


TRACED_STEPS = 5
"""How many steps a trace has; ``schedopt import`` leaves the first one out."""
