"""K-FAC's work for each linear layer of a stage, timed.

The approximation is that of Martens and Grosse (2015): A is the mean of a a^T over
tokens, with a the layer's input (and a 1 where it has a bias), B the mean of g g^T with
g the gradient of its output. CURVATURE is one product per factor, INVERSION a damped
Cholesky inverse per factor, PRECONDITION B^-1 G A^-1. All in float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from schedopt.measure.sample import Microbatch, StageUnderTest
from schedopt.measure.timing import Action, Spread, time_work

_DAMPING = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKfac:
    """A linear layer's K-FAC work, microseconds, and what it holds.

    ``input_bytes`` and ``gradient_bytes`` are those of a microbatch's inputs and output
    gradients, which wait for their curvature; layers with the same inputs share them.
    """

    layer: str
    tokens: int
    size_a: int
    size_b: int
    input_bytes: int
    gradient_bytes: int
    curvature_a: Spread
    curvature_b: Spread
    inversion_a: Spread
    inversion_b: Spread
    precondition: Spread

    @property
    def factor_bytes(self) -> tuple[int, int]:
        """Of A and of B, in float32."""
        return 4 * self.size_a**2, 4 * self.size_b**2


def kfac_of(
    stage: StageUnderTest, device: torch.device, warmup: int, repetitions: int
) -> tuple[LayerKfac, ...]:
    """Every linear layer of a stage; layers of equal sizes are timed once."""
    known: dict[tuple[int, int, int], dict[str, Spread]] = {}
    found = []
    for seen in _layers_of(stage):
        shape = (seen.tokens, seen.size_a, seen.size_b)
        if shape not in known:
            known[shape] = _time(*shape, device, warmup, repetitions)
        found.append(
            LayerKfac(
                layer=seen.layer,
                tokens=seen.tokens,
                size_a=seen.size_a,
                size_b=seen.size_b,
                input_bytes=seen.input_bytes,
                gradient_bytes=seen.gradient_bytes,
                **known[shape],
            )
        )
    return tuple(found)


class _Seen(NamedTuple):
    """A layer as it runs in a forward."""

    layer: str
    tokens: int
    size_a: int
    size_b: int
    input_bytes: int
    gradient_bytes: int


def _layers_of(stage: StageUnderTest) -> list[_Seen]:
    """The linear layers, seen in one forward."""
    found: list[tuple[_Seen, Tensor]] = []  # with the inputs, whose places stay taken

    def look(name: str, layer: nn.Linear) -> torch.utils.hooks.RemovableHandle:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            (taken, *_) = inputs
            tokens = taken.numel() // layer.in_features
            size_a = layer.in_features + (layer.bias is not None)
            size_b = layer.out_features
            gradient = tokens * size_b * taken.element_size()
            seen = _Seen(name, tokens, size_a, size_b, taken.nbytes, gradient)
            found.append((seen, taken))

        return layer.register_forward_pre_hook(hook)

    handles = [
        look(name, layer)
        for name, layer in stage.module.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    try:
        microbatch = Microbatch(stage)
        microbatch.receive_inputs()
        microbatch.forward()
    finally:
        for handle in handles:
            handle.remove()
    sharers = Counter(taken.data_ptr() for _, taken in found)
    return [
        seen._replace(input_bytes=seen.input_bytes // sharers[taken.data_ptr()])
        for seen, taken in found
    ]


def _time(
    tokens: int,
    size_a: int,
    size_b: int,
    device: torch.device,
    warmup: int,
    repetitions: int,
) -> dict[str, Spread]:
    return time_work(
        lambda: _actions(tokens, size_a, size_b, device), device, warmup, repetitions
    )


def _actions(
    tokens: int, size_a: int, size_b: int, device: torch.device
) -> Iterator[tuple[str, Action]]:
    inputs = torch.randn(tokens, size_a, device=device)
    outputs = torch.randn(tokens, size_b, device=device)
    gradient = torch.randn(size_b, size_a, device=device)
    factors: dict[str, Tensor] = {}

    def curvature(name: str, vectors: Tensor) -> Action:
        def act() -> None:
            factors[name] = vectors.T @ vectors / tokens

        return act

    def inversion(name: str) -> Action:
        def act() -> None:
            damped = factors[name].clone()
            damped.diagonal().add_(_DAMPING)
            factors[name] = torch.cholesky_inverse(torch.linalg.cholesky(damped))

        return act

    def precondition() -> None:
        factors["step"] = factors["b"] @ gradient @ factors["a"]

    yield "curvature_a", curvature("a", inputs)
    yield "curvature_b", curvature("b", outputs)
    yield "inversion_a", inversion("a")
    yield "inversion_b", inversion("b")
    yield "precondition", precondition
