"""Programs from rows of text, for the tests of torch's formats."""

from __future__ import annotations

from typing import Any

from schedopt.build import build_graph
from schedopt.export.program import Program, program_of
from schedopt.formats import instance_from_document
from schedopt.opgraph import Stream, StreamKind
from schedopt.ops import Op
from schedopt.simulate import dispatch, simulate
from tests.cli_helpers import ORDER, TINY


def program(text: str = ORDER, **fields: Any) -> Program:
    """The rows replayed on the tiny instance but for some fields."""
    instance = instance_from_document({**TINY, **fields}, "tiny")
    graph = build_graph(instance)
    order = dispatch(
        graph,
        {
            Stream(StreamKind.COMPUTE, rank): tuple(map(Op.parse, row.split(",")))
            for rank, row in enumerate(text.split())
        },
    )
    return program_of(instance, simulate(graph, order))
