"""What a user's own code raised, in one line."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from schedopt.errors import MeasurementError

_NOT_THE_USERS = (Path(torch.__file__).parent, Path(__file__).parent)


@contextmanager
def running_user_code(what: str) -> Iterator[None]:
    """Run what the user wrote; whatever it raises becomes one line, ``what`` first.

    Raises
    ------
    MeasurementError
        If it raises anything; measurement errors pass as they are.
    """
    try:
        yield
    except MeasurementError:
        raise
    except Exception as error:  # a person's own code may raise whatever it likes
        msg = f"{what} {raised(error)}"
        raise MeasurementError(msg) from error


def raised(error: BaseException) -> str:
    """The first line of an error with its kind, and the user's line that led to it."""
    cause = error.__cause__ or error
    if isinstance(cause, (ImportError, SyntaxError)):
        return _first_line(cause)  # says itself what and where
    frames = [
        frame
        for frame in traceback.extract_tb(cause.__traceback__)
        if not any(Path(frame.filename).is_relative_to(x) for x in _NOT_THE_USERS)
    ]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(cause).__name__}: {_first_line(cause)}{where}"


def _first_line(error: BaseException) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), "no message")
