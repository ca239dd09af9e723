"""Measured times and levels of memory, in the terms of an instance.

PyTorch's backward for the input adds more than it frees: it keeps the gradients that
the backward for the weights starts from, and the graph up to there (torch 2.13,
``torch/distributed/pipelining/_backward.py``). An instance says this with
``activation_until_input`` and ``input_gradient``.
"""

from __future__ import annotations

from typing import NamedTuple

MEBIBYTE = 2**20


def tidy(value: float) -> int | float:
    """A number without float noise: six decimals, an int where it is one."""
    rounded = round(value, 6)
    return int(rounded) if rounded == int(rounded) else rounded


def mebibytes(size: float) -> int | float:
    """Bytes in MiB, to six decimals, which is about one byte."""
    return tidy(size / MEBIBYTE)


class SplitMemory(NamedTuple):
    """Bytes: what I frees at its end, and what it adds at its start."""

    activation_until_input: int
    input_gradient: int


def split_memory(activation: int, change: int, peak: int) -> SplitMemory:
    """Both fields of a stage from what I did to the level of memory.

    Parameters
    ----------
    activation : int
        Bytes alive from F on, before I.
    change : int
        Level after I minus level before it, bytes; may be negative.
    peak : int
        Highest level while I ran minus level before it, bytes; not negative.

    Returns
    -------
    SplitMemory
        With these an instance has the measured level after I, and the measured peak
        while I runs as far as ``activation`` allows: I cannot free more than was there.
    """
    added = max(peak, change, 0)
    freed = min(added - change, activation)
    return SplitMemory(freed, max(change + freed, 0))
