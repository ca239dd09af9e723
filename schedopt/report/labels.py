"""What is written into a block of a chart: nothing that could be read as another op.

An op of step 1 or later is never written without its step where several are drawn, and
the copy of a stage that inverts or preconditions never stands where a microbatch would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from schedopt.ops import Op, OpKind
from schedopt.report.kinds import COLOURS, KIND_WORDS, LETTERS

_OF_LAYERS = (OpKind.CURVATURE_A, OpKind.CURVATURE_B, OpKind.INVERSION)
_OF_COPIES = (OpKind.INVERSION, OpKind.PRECONDITION, OpKind.STEP)


def lettered(op: Op, *, stages: bool, steps: bool) -> Iterable[str]:
    """Texts with the kind's letter, the fullest first; ``1@2F0``, ``v:ffn.1.A``.

    ``stages`` and ``steps`` say whether ops of several are drawn. The layer is left out
    first, then the stage; the letter alone is the last.
    """
    number = "" if op.kind in _OF_COPIES else str(op.microbatch)
    short = f"{LETTERS[op.kind]}{number}"
    named = [f"{op.stage}{short}", short] if stages else [short]
    layer = _layer(op)
    texts = [f"{text}:{layer}" for text in named] if layer else []
    texts += named
    return (*(f"{_step(op, steps)}{text}" for text in texts), LETTERS[op.kind])


def plain(op: Op, *, stages: bool, steps: bool) -> Iterable[str]:
    """Texts for a block whose colour tells the kind, the fullest first; maybe none.

    ``1@2.0`` is microbatch 0 on stage 2 in step 1, ``2:ffn.1.A`` a factor of stage 2.
    """
    step, layer = _step(op, steps), _layer(op)
    stage = str(op.stage) if stages else ""
    if op.kind not in _OF_COPIES:
        number = f"{stage}.{op.microbatch}" if stage else str(op.microbatch)
        texts = [f"{number}:{layer}", number] if layer else [number]
    elif layer:
        texts = [f"{stage}:{layer}", layer] if stage else [layer]
    elif stage:
        texts = [f"stage {stage}"]
    else:
        return (f"{op.step}@",) if steps else ()
    return tuple(f"{step}{text}" for text in texts)


def shade(op: Op, place: int) -> str:
    """The op's colour, in one of two shades, so that neighbours of one kind differ.

    ``place`` is the op's number in its row.
    """
    of_copies_or_layers = op.kind in (*_OF_LAYERS, *_OF_COPIES)
    number = place if of_copies_or_layers else op.microbatch + op.stage
    return COLOURS[op.kind][number % 2]


def width_of(text: str) -> int:
    """How many digits wide a label is drawn, in letters of different widths."""
    return len(text) + text.count("@")


def kinds_by_colour(ops: Iterable[Op]) -> Mapping[str, str]:
    """The colours of what computes, each with the words of the kinds that have it."""
    drawn = {op.kind for op in ops if op.kind.is_compute}
    words: dict[str, str] = {}
    for kind, name in KIND_WORDS.items():
        if kind in drawn:
            colour = COLOURS[kind][0]
            words[colour] = f"{words[colour]} or {name}" if colour in words else name
    return words


def draws_steps(ops: Iterable[Op]) -> bool:
    """Whether ops of several training steps are drawn."""
    return any(op.step for op in ops)


def legend_of_blocks(ops: Iterable[Op], *, stages: bool, letters: bool) -> str:
    """What the texts in blocks say."""
    drawn = list(ops)
    layers = any(op.kind in _OF_LAYERS for op in drawn)
    names = [
        "step@ (but for step 0)" if draws_steps(drawn) else "",
        "stage" if stages else "",
        "kind" if letters else "",
        "microbatch",
        "layer, side of its factor" if layers else "",
    ]
    return ", ".join(filter(None, names))


def _layer(op: Op) -> str:
    """The layer, of an inversion with its side."""
    return op.part if op.kind in _OF_LAYERS else ""


def _step(op: Op, steps: bool) -> str:
    return f"{op.step}@" if steps and op.step else ""
