"""Stages of the user's own model, made by a function that is named on the command line.

``package.module:function`` is imported (the current folder is looked in too). It gives
the stage's module and an example of its input, a tensor or a sequence of tensors, and
for a last stage a third value: the loss, a function of what the module returns. If the
function takes two arguments, it is called with the stage's number and how many stages
there are, once per stage.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import cast

import torch
from torch import Tensor, nn

from schedopt.errors import MeasurementError
from schedopt.measure.sample import Loss, StageUnderTest
from schedopt.measure.user_code import running_user_code

Factory = Callable[..., object]


def import_factory(name: str) -> Factory:
    """The function that a name means.

    Raises
    ------
    MeasurementError
        If there is none.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        msg = f"--factory {name}: must be package.module:function"
        raise MeasurementError(msg)
    if "" not in sys.path:
        sys.path.insert(0, "")
    with running_user_code(f"--factory {name}: cannot be imported:"):
        module = import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        msg = f"--factory {name}: {module_name} has no function {function_name}"
        raise MeasurementError(msg)
    return cast("Factory", function)


def takes_stage(factory: Factory, name: str) -> bool:
    """Whether a factory wants to know which stage of how many it makes.

    Raises
    ------
    MeasurementError
        If it needs another number of arguments than none or these two.
    """
    try:
        parameters = inspect.signature(factory).parameters
    except ValueError:  # some builtins do not say
        return False
    needed = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind
        in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(needed) in (0, 2):
        return len(needed) == 2
    msg = (
        f"--factory {name}: needs {', '.join(needed)}; it must take no argument, or"
        " two: the stage's number and how many stages there are"
    )
    raise MeasurementError(msg)


def factory_stage(
    factory: Factory, name: str, stage: int | None, stages: int, device: torch.device
) -> StageUnderTest:
    """What the factory makes, on the device; ``stage`` None: one like every stage.

    Raises
    ------
    MeasurementError
        If it fails, or returns something else than a module, inputs and perhaps a loss.
    """
    torch.manual_seed(0)
    with running_user_code(f"--factory {name}: raised"):
        made = factory() if stage is None else factory(stage, stages)
    if not isinstance(made, Sequence) or len(made) not in (2, 3):
        raise _wrong(name, made)
    module, example = made[:2]
    inputs = (example,) if isinstance(example, Tensor) else example
    loss = made[2] if len(made) == 3 else None
    if (
        not isinstance(module, nn.Module)
        or not isinstance(inputs, Sequence)
        or not all(isinstance(item, Tensor) for item in inputs)
        or not (loss is None or callable(loss))
    ):
        raise _wrong(name, made)
    return StageUnderTest(
        name="every stage" if stage is None else f"stage {stage}",
        module=module.to(device),
        inputs=tuple(tensor.to(device) for tensor in inputs),
        loss=cast("Loss | None", loss),
        is_first=stage == 0,
    )


def _wrong(name: str, made: object) -> MeasurementError:
    found = type(made).__name__
    if isinstance(made, Sequence):
        found += f" of {', '.join(type(item).__name__ for item in made[:4])}"
    msg = (
        f"--factory {name}: returned {found}; it must return a module and a tensor (or"
        " a sequence of tensors) that it takes, and for a last stage also the loss"
    )
    return MeasurementError(msg)
