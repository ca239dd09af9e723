"""An instance's op graph: that of its pipeline, under the rules of its runtime."""

from __future__ import annotations

from schedopt.build import pipeline
from schedopt.build.kfac import add_kfac
from schedopt.build.runtime_rules import ruled_graph
from schedopt.build.steps import StepOps, end_steps, gradients_of_steps, unrolled
from schedopt.errors import InstanceError
from schedopt.instance import Instance
from schedopt.opgraph import OpGraph


def build_graph(instance: Instance) -> OpGraph:
    """The op graph of the instance's training steps, with their second-order work.

    One step without second-order work has no optimizer's step: nothing waits for it.

    Raises
    ------
    InstanceError
        If a runtime's rules are asked for that say nothing of what is unrolled.
    """
    one_plain_step = instance.steps == 1 and instance.kfac is None
    if instance.runtime:
        if not one_plain_step:
            msg = f"the rules of {instance.runtime} cover one step without K-FAC only"
            raise InstanceError(msg)
        return ruled_graph(instance)
    graph = pipeline.build_graph(instance)
    if one_plain_step:
        return graph
    draft = unrolled(graph, instance.steps)
    ops = StepOps(draft)
    if instance.kfac is None:
        waits = gradients_of_steps(ops, instance)
    else:
        waits = add_kfac(draft, ops, instance, instance.kfac)
    end_steps(draft, ops, instance, waits)
    return draft.graph()
