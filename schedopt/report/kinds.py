"""How op kinds are shown: their words, letters and colours.

The colours are those of Okabe and Ito, "Color Universal Design" (2008), which
colour-blind readers tell apart, each with a lighter shade. B and I share one: both pass
the gradient on. What moves data is light grey, the optimizer's step a darker one. Their
eight colours are not enough for all that computes: curvature of inputs shares one with
forward and backward together, and curvature of output gradients has a violet of its
own. Letters tell all kinds apart. Texts are black, so no colour is dark.
"""

from __future__ import annotations

from schedopt.ops import OpKind

KIND_WORDS = {
    OpKind.FORWARD: "forward",
    OpKind.BACKWARD: "whole backward",
    OpKind.BACKWARD_INPUT: "backward for the input",
    OpKind.BACKWARD_WEIGHT: "backward for the weights",
    OpKind.RECOMPUTE: "recompute",
    OpKind.OVERLAP: "forward and backward together",
    OpKind.SEND_FORWARD: "sends forward",
    OpKind.SEND_BACKWARD: "sends backward",
    OpKind.CURVATURE_A: "curvature of inputs",
    OpKind.CURVATURE_B: "curvature of output gradients",
    OpKind.SYNC_CURVATURE: "curvature reduced over copies",
    OpKind.INVERSION: "inversion",
    OpKind.REDUCE_GRAD: "gradients reduced over copies",
    OpKind.PRECONDITION: "preconditioning",
    OpKind.GATHER_GRAD: "gradients gathered from copies",
    OpKind.STEP: "optimizer step",
}
LETTERS = {
    OpKind.FORWARD: "F",
    OpKind.BACKWARD: "B",
    OpKind.BACKWARD_INPUT: "I",
    OpKind.BACKWARD_WEIGHT: "W",
    OpKind.RECOMPUTE: "R",
    OpKind.OVERLAP: "O",
    OpKind.SEND_FORWARD: ">",
    OpKind.SEND_BACKWARD: "<",
    OpKind.CURVATURE_A: "a",
    OpKind.CURVATURE_B: "b",
    OpKind.SYNC_CURVATURE: "s",
    OpKind.INVERSION: "v",
    OpKind.REDUCE_GRAD: "r",
    OpKind.PRECONDITION: "p",
    OpKind.GATHER_GRAD: "g",
    OpKind.STEP: "t",
}
COLOURS = {
    OpKind.FORWARD: ("#56b4e9", "#8ccdf2"),
    OpKind.BACKWARD: ("#e69f00", "#f2bf55"),
    OpKind.BACKWARD_INPUT: ("#e69f00", "#f2bf55"),
    OpKind.BACKWARD_WEIGHT: ("#009e73", "#4dc3a2"),
    OpKind.RECOMPUTE: ("#f0e442", "#f7f09a"),
    OpKind.OVERLAP: ("#cc79a7", "#e0aac8"),
    OpKind.SEND_FORWARD: ("#bbbbbb", "#dddddd"),
    OpKind.SEND_BACKWARD: ("#bbbbbb", "#dddddd"),
    OpKind.CURVATURE_A: ("#cc79a7", "#e0aac8"),
    OpKind.CURVATURE_B: ("#9467bd", "#b294d1"),
    OpKind.SYNC_CURVATURE: ("#bbbbbb", "#dddddd"),
    OpKind.INVERSION: ("#d55e00", "#e88f4d"),
    OpKind.REDUCE_GRAD: ("#bbbbbb", "#dddddd"),
    OpKind.PRECONDITION: ("#0072b2", "#4d9dc9"),
    OpKind.GATHER_GRAD: ("#bbbbbb", "#dddddd"),
    OpKind.STEP: ("#8c8c8c", "#a6a6a6"),
}
