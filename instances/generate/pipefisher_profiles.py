"""What PipeFisher's authors measured: one transformer block on each GPU.

The figures stand in ``prof/`` of kazukiosawa/pipe-fisher. By ``scripts/prof_kron.py``
there, a time is the mean of ten runs after five to warm up, synchronised; curvature is
what it adds to forward and backward. Times are transcribed to the microsecond
(inversion to ten), sizes as they are.
"""

from __future__ import annotations

from typing import NamedTuple

SOURCE = (
    "kazukiosawa/pipe-fisher @ 16ee8dbed8e4bc89548519c857bfeee982d0f121,"
    " prof/{file}_time_memory_{gpu}.csv, row bs={batch}"
)


class Sizes(NamedTuple):
    """MiB that a microbatch leaves in a block: activation, and saved output errors."""

    activation: float
    saved_errors: float


class Model(NamedTuple):
    """A transformer: its blocks, a block's width, a sequence's tokens, and sizes.

    The sizes are by the number of sequences in a microbatch.
    """

    title: str
    blocks: int
    hidden: int
    sequence: int
    sizes: dict[int, Sizes]

    @property
    def weight_bytes(self) -> int:
        """The weights of a block's linear layers, 12 h^2 in 32 bits."""
        return 12 * self.hidden**2 * 4

    def hidden_bytes(self, batch: int) -> int:
        """One 32-bit hidden state for every token of a microbatch."""
        return batch * self.sequence * self.hidden * 4


class Times(NamedTuple):
    """Milliseconds per block; curvature is of all factors, for one microbatch."""

    forward: float
    backward: float
    curvature: float
    inversion: float
    precondition: float


class Row(NamedTuple):
    """Which profile: model, GPU, sequences in a microbatch."""

    model: str
    gpu: str
    batch: int

    @property
    def source(self) -> str:
        """Where the profile stands."""
        return SOURCE.format(file=self.model, gpu=self.gpu, batch=self.batch)


_BASE = {8: Sizes(66.515625, 27), 16: Sizes(133.03125, 54), 32: Sizes(264.0625, 108)}
_LARGE = {8: Sizes(88.015625, 36), 16: Sizes(176.03125, 72), 32: Sizes(352.0625, 144)}

MODELS = {
    "bert-base": Model("BERT-Base", 12, 768, 128, _BASE),
    "bert-large": Model("BERT-Large", 24, 1024, 128, _LARGE),
    "t5-base": Model("T5-Base", 12, 768, 512, {8: Sizes(475.03125, 108)}),
    "t5-large": Model("T5-Large", 24, 1024, 512, {8: Sizes(633.03125, 144)}),
    "opt-125m": Model("OPT-125M", 12, 768, 2048, {1: Sizes(600.015625, 54)}),
    "opt-350m": Model("OPT-350M", 24, 1024, 2048, {1: Sizes(792, 72)}),
}

TIMES = {
    Row("bert-base", "p100", 8): Times(2.734, 4.651, 6.804, 71.64, 6.853),
    Row("bert-base", "p100", 16): Times(5.035, 8.597, 13.223, 71.76, 6.810),
    Row("bert-base", "p100", 32): Times(9.748, 16.450, 25.547, 71.67, 6.805),
    Row("bert-base", "v100", 8): Times(1.985, 2.834, 4.863, 49.12, 3.898),
    Row("bert-base", "v100", 16): Times(3.261, 5.198, 8.510, 49.14, 3.892),
    Row("bert-base", "v100", 32): Times(6.065, 9.727, 16.181, 49.09, 3.889),
    Row("bert-base", "rtx3090", 8): Times(1.062, 1.402, 2.401, 38.52, 1.690),
    Row("bert-base", "rtx3090", 16): Times(1.679, 2.642, 3.645, 38.55, 1.691),
    Row("bert-base", "rtx3090", 32): Times(3.015, 5.087, 6.947, 38.51, 1.690),
    Row("bert-large", "p100", 8): Times(4.500, 7.653, 11.926, 126.74, 14.878),
    Row("bert-large", "p100", 16): Times(9.299, 14.876, 22.656, 126.70, 14.989),
    Row("bert-large", "p100", 32): Times(16.100, 26.953, 43.500, 126.70, 14.734),
    Row("bert-large", "v100", 8): Times(2.901, 4.548, 7.757, 80.78, 8.959),
    Row("bert-large", "v100", 16): Times(5.438, 8.603, 14.806, 80.80, 8.965),
    Row("bert-large", "v100", 32): Times(10.386, 16.285, 27.447, 80.85, 8.896),
    Row("bert-large", "rtx3090", 8): Times(1.343, 2.256, 3.382, 61.96, 3.837),
    Row("bert-large", "rtx3090", 16): Times(2.460, 4.151, 5.609, 61.88, 3.836),
    Row("bert-large", "rtx3090", 32): Times(4.854, 7.777, 10.990, 61.99, 3.858),
    Row("t5-base", "p100", 8): Times(11.581, 21.236, 25.676, 74.34, 6.660),
    Row("t5-large", "p100", 8): Times(18.474, 34.215, 43.483, 130.93, 14.488),
    Row("opt-125m", "p100", 1): Times(10.907, 19.962, 13.134, 71.59, 6.910),
    Row("opt-350m", "p100", 1): Times(17.367, 28.684, 22.537, 126.69, 14.534),
    Row("opt-350m", "v100", 1): Times(9.879, 16.109, 13.776, 80.91, 9.085),
}
