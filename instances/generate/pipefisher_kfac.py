"""Pipelines of profiled blocks with the K-FAC work that PipeFisher places."""

from __future__ import annotations

from collections.abc import Iterator

from instances.generate.draft import MEBIBYTE, Draft, Number, tidy
from instances.generate.pipefisher import stage_of
from instances.generate.pipefisher_profiles import MODELS, TIMES, Row

FOLDER = "pipefisher/kfac"
PLACEMENTS = ("linear", "bidirectional")
DEPTHS = (4, 8, 16)
BLOCKS = (1, 3)
"""Blocks per stage."""

# Width of the inputs and of the outputs of a block's linear layers, in hidden units.
_LAYERS = {
    "q": (1, 1),
    "k": (1, 1),
    "v": (1, 1),
    "o": (1, 1),
    "ffn1": (1, 4),
    "ffn2": (4, 1),
}
_SHARING_INPUT = ("q", "k", "v")
_NARROW, _WIDE = 1, 4
_TICKS = 10**6
"""Ticks per millisecond, and grains per MiB: the default resolution of instances."""


def drafts() -> Iterator[Draft]:
    """Every profile, one-way and two-way, with one and with three blocks per stage."""
    for row in TIMES:
        for depth in DEPTHS:
            for blocks in BLOCKS:
                for placement in PLACEMENTS:
                    yield _draft(row, depth, blocks, placement)


def name_of(row: Row, depth: int, blocks: int, placement: str) -> str:
    """What the instance is called; ``chimera`` stands for the two-way placement."""
    way = "-chimera" if placement == "bidirectional" else ""
    return f"pipefisher-{row.model}-{row.gpu}-b{row.batch}-d{depth}-x{blocks}{way}-kfac"


def _draft(row: Row, depth: int, blocks: int, placement: str) -> Draft:
    model, times = MODELS[row.model], TIMES[row]
    two_way = placement == "bidirectional"
    each = "1 block" if blocks == 1 else f"{blocks} blocks"
    weights = blocks * model.weight_bytes
    stage = {
        **stage_of(row, blocks),
        "precondition": tidy(blocks * times.precondition),
        "gradient_bytes": weights,
    }
    return Draft(
        family=FOLDER,
        name=name_of(row, depth, blocks, placement),
        notes=(
            f"{each} of {model.title} per stage on {depth} {row.gpu.upper()} with K-FAC"
            f" work, {'two-way (Chimera)' if two_way else 'one-way (GPipe, 1F1B)'}: one"
            f" step of {depth} microbatches of {row.batch} sequences of"
            f" {model.sequence} tokens, 32-bit. See instances/README.md.",
            "ms, MiB, *_bytes in bytes. Published per block: forward, backward,"
            f" activation, curvature {times.curvature} ms per microbatch, inversion"
            f" {times.inversion} ms, preconditioning, saved gradients"
            f" {model.sizes[row.batch].saved_errors} MiB per microbatch. Their split"
            " over modules, static_memory and bytes are inferred.",
        ),
        source=row.source,
        stages=[stage] * depth,
        devices=depth,
        microbatches=depth,
        backward="whole",
        time_unit="ms",
        placement=placement,
        modules=list(_modules(row, blocks)),
        kfac={"inversion": "halved"} if two_way else {},
    )


def _modules(row: Row, blocks: int) -> Iterator[dict[str, str | Number]]:
    """The linear layers, one per block each; costs of one layer.

    All six are measured together. Factor A (of a layer's inputs) and B (of its output
    gradients) have the same sizes in a block, so each side takes half. Within a side
    curvature goes as the square of a factor's width, inversion as the cube.
    """
    model, times = MODELS[row.model], TIMES[row]
    curvature = _by_width(times.curvature, 2)
    inversion = _by_width(times.inversion, 3)
    hidden = model.hidden_bytes(row.batch)
    for name, (inputs, outputs) in _LAYERS.items():
        owners = len(_SHARING_INPUT) if name in _SHARING_INPUT else 1
        yield {
            "name": name,
            "count": blocks,
            "curvature_a": curvature[inputs],
            "curvature_b": curvature[outputs],
            "inversion_a": inversion[inputs],
            "inversion_b": inversion[outputs],
            # Rounded down: together never more than the one input that they share.
            "saved_input": tidy(
                inputs * hidden * _TICKS // (owners * MEBIBYTE) / _TICKS
            ),
            "saved_gradient": tidy(outputs * hidden / MEBIBYTE),
            "factor_a": tidy((inputs * model.hidden) ** 2 * 4 / MEBIBYTE),
            "factor_b": tidy((outputs * model.hidden) ** 2 * 4 / MEBIBYTE),
        }


def _by_width(milliseconds: float, power: int) -> dict[int, Number]:
    """The time of a narrow and of a wide factor, of which a side has five and one.

    They add up to half of the measured time to the tick, and have half a tick nowhere,
    also where two devices halve them.
    """
    side = round(milliseconds * _TICKS) // 2
    narrow = 2 * round(side / (5 * _NARROW**power + _WIDE**power) / 2)
    wide = side - 5 * narrow
    assert narrow % 2 == wide % 2 == 0
    return {_NARROW: tidy(narrow / _TICKS), _WIDE: tidy(wide / _TICKS)}
