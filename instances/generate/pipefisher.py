"""BERT blocks on P100, V100 and RTX 3090, profiled for PipeFisher."""

from __future__ import annotations

from collections.abc import Iterator

from instances.generate.draft import Draft, Number, Stage, tidy
from instances.generate.memory import linear_need
from instances.generate.pipefisher_profiles import MODELS, TIMES, Row, Times

FAMILY = "pipefisher"
_DEPTHS = (4, 8)
_WHOLE = ("bert-base", "bert-large")
"""The models that are here whole; of the others single blocks are, with K-FAC work."""


def drafts() -> Iterator[Draft]:
    """Every profile of a BERT on four and eight devices, blocks spread evenly."""
    for row, times in TIMES.items():
        if row.model in _WHOLE:
            for depth in _DEPTHS:
                yield _draft(row, depth, times)


def blocks_of_stages(blocks: int, depth: int) -> list[int]:
    """Blocks per stage; where they do not divide, the first stages have one more."""
    return [blocks // depth + (stage < blocks % depth) for stage in range(depth)]


def stage_of(row: Row, blocks: int) -> Stage:
    """What a stage of so many blocks costs, without K-FAC work."""
    model, times = MODELS[row.model], TIMES[row]
    costs: dict[str, Number] = {
        "forward": tidy(blocks * times.forward),
        "backward": tidy(blocks * times.backward),
        "activation": tidy(blocks * model.sizes[row.batch].activation),
        "static_memory": tidy(blocks * 2 * model.weight_bytes / 2**20),
        "output_bytes": model.hidden_bytes(row.batch),
    }
    return costs


def _draft(row: Row, depth: int, times: Times) -> Draft:
    model, sizes = MODELS[row.model], MODELS[row.model].sizes[row.batch]
    blocks = blocks_of_stages(model.blocks, depth)
    stages = [stage_of(row, count) for count in blocks]
    return Draft(
        family=FAMILY,
        name=f"pipefisher-{row.model}-{row.gpu}-b{row.batch}-d{depth}",
        notes=(
            f"The {model.blocks} blocks of {model.title} on {depth} {row.gpu.upper()}"
            f" ({', '.join(map(str, blocks))} per stage), one step of {depth}"
            f" microbatches of {row.batch} sequences of {model.sequence} tokens,"
            " 32-bit. One block was profiled; a stage is that block times its number of"
            " blocks. Embedding and heads are left out, as in the paper's model.",
            "Units: milliseconds, MiB; output_bytes in bytes. static_memory: weights"
            " and gradients of the blocks, 2 x 12 h^2 x 4 bytes each, as the paper's"
            " model counts them. The peak of errors within a backward is not modelled.",
            "memory_limit is what 1F1B needs on the fullest device. Transfers cost"
            " nothing, as in the paper's model; output_bytes (inferred: one 32-bit"
            " hidden state per token) serve whoever adds a bandwidth.",
            "Per block, for K-FAC work that this file does not have: curvature"
            f" {times.curvature} ms per microbatch, inversion {times.inversion} ms and"
            f" preconditioning {times.precondition} ms per step, saved errors"
            f" {sizes.saved_errors} MiB per microbatch.",
        ),
        source=row.source,
        stages=stages,
        devices=depth,
        microbatches=depth,
        backward="whole",
        time_unit="ms",
        memory_limit=linear_need(stages, depth),
    )
