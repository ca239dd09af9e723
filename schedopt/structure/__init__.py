"""What repeats in an op graph: the one declared view that fast members may use.

``fifo_classes`` says where ops may be put in microbatch order without losing an
optimum; ``lanes_of`` shows a pipeline as lanes of stages that equal microbatches pass.
All read the op graph only, and answer "nothing" where the structure is not there.
"""

from schedopt.structure.classes import (
    ClassBuffer,
    ClassEdge,
    ClassGraph,
    OpClass,
    class_graph,
)
from schedopt.structure.fifo import Slot, equal_microbatches, fifo_classes
from schedopt.structure.lanes import Lane, LaneStage, lanes_of
from schedopt.structure.memory import memory_follows_order

__all__ = [
    "ClassBuffer",
    "ClassEdge",
    "ClassGraph",
    "Lane",
    "LaneStage",
    "OpClass",
    "Slot",
    "class_graph",
    "equal_microbatches",
    "fifo_classes",
    "lanes_of",
    "memory_follows_order",
]
