"""An instance's op graph: that of its pipeline, under the rules of its runtime."""

from __future__ import annotations

from schedopt.build import pipeline
from schedopt.build.runtime_rules import ruled_graph
from schedopt.instance import Instance
from schedopt.opgraph import OpGraph


def build_graph(instance: Instance) -> OpGraph:
    """The op graph of one training step of the instance's pipeline."""
    if instance.runtime:
        return ruled_graph(instance)
    return pipeline.build_graph(instance)
