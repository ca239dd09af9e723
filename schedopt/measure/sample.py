"""A stage to be measured, and one microbatch on its way through it.

The microbatch keeps and drops tensors as ``torch.distributed.pipelining`` does (2.13.0,
``stage.py``: ``fwd_cache``, ``backward_state``): inputs and outputs from F on, those of
a last stage beside its loss until I or B; after I also the gradients from which W
starts; nothing after W or B. Of the first stage I does nothing and W is the whole
backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import _backward

from schedopt.errors import MeasurementError

Loss = Callable[..., Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageUnderTest:
    """A stage with an example of what it takes.

    Attributes
    ----------
    name : str
        What tables call it.
    module : nn.Module
        The stage; it takes the inputs and returns a tensor or a sequence of them.
    inputs : tuple of Tensor
        One microbatch. Where the stage is not the first one, those of a floating type
        get a gradient.
    loss : callable or None
        Of the last stage: takes what the module returns, gives a scalar.
    is_first : bool
        Whether there is no stage before it.
    """

    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    loss: Loss | None = None
    is_first: bool = False


class Microbatch:
    """One microbatch's tensors; each method is one op, or what a transfer brings."""

    def __init__(self, stage: StageUnderTest) -> None:
        self._stage = stage
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: tuple[Tensor, ...] = ()
        self._predicted: object = None
        self._gradients: tuple[Tensor, ...] | None = None
        self._groups: list[dict[str, Any]] = []

    @property
    def output_bytes(self) -> int:
        """What the stage would send on, bytes; 0 after a loss."""
        if self._stage.loss is not None:
            return 0
        return sum(tensor.nbytes for tensor in self._outputs)

    def receive_inputs(self) -> None:
        """The inputs arrive."""
        self._inputs = tuple(
            tensor.detach()
            .clone()
            .requires_grad_(tensor.is_floating_point() and not self._stage.is_first)
            for tensor in self._stage.inputs
        )

    def forward(self) -> None:
        """F."""
        result = self._stage.module(*self._inputs)
        if self._stage.loss is not None:
            self._predicted = result
            result = self._stage.loss(result)
        self._outputs = _tensors(result, self._stage.name)

    def receive_gradients(self) -> None:
        """The gradients of the outputs arrive; a loss needs none."""
        if self._stage.loss is None:
            # Not of ones: a GPU needs less power, and so less time, for such products.
            self._gradients = tuple(
                torch.empty_like(output).normal_() for output in self._outputs
            )

    def backward(self) -> None:
        """B; afterwards nothing is left."""
        if self._stage.loss is not None:
            loss = self._outputs[0]
            _backward.stage_backward(loss, None, self._inputs)
        else:
            _backward.stage_backward(self._outputs, self._gradients, self._inputs)
        self.drop()

    def backward_input(self) -> None:
        """I."""
        if self._stage.is_first:
            return
        _, self._groups = _backward.stage_backward_input(
            list(self._outputs),
            None if self._gradients is None else list(self._gradients),
            list(self._inputs),
            self._stage.module.parameters(),
        )
        self._predicted = None

    def backward_weight(self) -> None:
        """W; afterwards nothing is left."""
        if self._stage.is_first:
            self.backward()
            return
        _backward.stage_backward_weight(self._stage.module.parameters(), self._groups)
        self.drop()

    def drop(self) -> None:
        """Forget every tensor."""
        self._inputs, self._outputs, self._predicted = (), (), None
        self._gradients, self._groups = None, []


def _tensors(result: object, name: str) -> tuple[Tensor, ...]:
    found = (result,) if isinstance(result, Tensor) else result
    if not isinstance(found, Sequence) or not found:
        found = (None,)
    for item in found:
        if not isinstance(item, Tensor):
            msg = (
                f"{name}: its module returns {type(result).__name__}, but a stage must"
                " return a tensor or a sequence of tensors"
            )
            raise MeasurementError(msg)
    return tuple(found)
