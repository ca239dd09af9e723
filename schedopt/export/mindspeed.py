"""``autopipeline_perf_config.json`` for Ascend MindSpeed, and a script to complete it.

MindSpeed (``mindspeed/core/performance/auto_pipeline_perf/autopipeline_perf.py``,
``schedulepipeline_solver.py``, ``core/pipeline_parallel/flexible_schedules.py``; read,
not executed) looks in the working directory for this file when started with
``--automated-pipeline-perf``. Where model and parallel sizes in it equal those of the
run, it skips profiling and runs ``pp_schedule_list``: for each stage a list of F and B
with the microbatch behind the letter. Only the letter is used, so microbatches are
first in, first out. One stage per rank, whole backwards.

An instance knows neither the sizes of the model nor how many layers a stage has, and a
size that does not match would make MindSpeed profile anew without a word. So these
fields are null here, and the script beside the file fills them in and refuses sizes
that contradict each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from schedopt.errors import ExportError
from schedopt.export.fifo import numbers_in_order
from schedopt.export.program import Program
from schedopt.export.python_text import header
from schedopt.ops import OpKind

FILE_NAME = "autopipeline_perf_config.json"
SCRIPT_NAME = "complete_mindspeed_config.py"
_LETTERS = {OpKind.FORWARD: "F", OpKind.BACKWARD: "B"}


def mindspeed_files(program: Program) -> Mapping[str, str]:
    """The configuration and the script that completes it.

    Raises
    ------
    ExportError
        If an op is neither F nor B, or the microbatches do not run in one order.
    """
    number = numbers_in_order(program, "mindspeed")
    schedule = {}
    for rank, row in enumerate(program.rows):
        words = []
        for op in row:
            if op.kind not in _LETTERS:
                msg = (
                    f"{op}: MindSpeed has no entry for it, only whole forwards and"
                    " backwards; solve again with --runtime mindspeed"
                )
                raise ExportError(msg)
            words.append(f"{_LETTERS[op.kind]}{number[op.microbatch]}")
        schedule[f"stage{rank}"] = words
    entry = {
        "model_configs": dict.fromkeys(
            ("hidden_size", "ffn_hidden_size", "seq_length", "num_attention_heads")
        ),
        "optimpipeline_policy": [
            {
                "num_layers": None,
                "pipeline_model_parallel_size": len(program.rows),
                "tensor_model_parallel_size": None,
                "micro_batch_size": None,
                "global_batch_size": None,
                "enable_scheduler": True,
                "optimized_mbs_list": [],
                "pp_schedule_list": schedule,
                "optimal_layers": None,
            }
        ],
    }
    script = _SCRIPT.format(
        header=header(program, "Ascend MindSpeed: fill in what it does not know"),
        file=FILE_NAME,
        stages=len(program.rows),
        microbatches=program.microbatches,
    )
    return {FILE_NAME: json.dumps([entry], indent=1) + "\n", SCRIPT_NAME: script}


_SCRIPT = '''{header}
Run it where {file} is:

    python complete_mindspeed_config.py --hidden-size 4096 --ffn-hidden-size 16384 \\
        --seq-length 4096 --num-attention-heads 32 --layers 8,8,8,8 \\
        --tensor-model-parallel-size 1 --micro-batch-size 1 --global-batch-size 32 \\
        --data-parallel-size 1
"""

import argparse
import json
import pathlib

STAGES = {stages}
MICROBATCHES = {microbatches}
SIZES = (
    "hidden_size",
    "ffn_hidden_size",
    "seq_length",
    "num_attention_heads",
    "tensor_model_parallel_size",
    "micro_batch_size",
    "global_batch_size",
)


def main():
    parser = argparse.ArgumentParser(description="Complete {file}.")
    for size in (*SIZES, "data_parallel_size"):
        option = "--" + size.replace("_", "-")
        parser.add_argument(option, type=int, required=True)
    parser.add_argument("--layers", required=True, help="layers of each stage: 8,8,7,9")
    parser.add_argument("--file", type=pathlib.Path, default=pathlib.Path("{file}"))
    given = parser.parse_args()
    layers = [int(word) for word in given.layers.split(",")]
    if len(layers) != STAGES:
        parser.error(f"--layers: {{STAGES}} numbers are needed, one per stage")
    per_step = given.micro_batch_size * given.data_parallel_size
    if given.global_batch_size != MICROBATCHES * per_step:
        parser.error(
            f"--global-batch-size: the schedule has {{MICROBATCHES}} microbatches, so"
            f" it must be {{MICROBATCHES * per_step}}"
        )
    (entry,) = json.loads(given.file.read_text("utf-8"))
    (policy,) = entry["optimpipeline_policy"]
    policy["num_layers"] = sum(layers)
    policy["optimal_layers"] = layers
    for size in SIZES:
        owner = entry["model_configs"] if size in entry["model_configs"] else policy
        owner[size] = getattr(given, size)
    given.file.write_text(json.dumps([entry], indent=1) + "\\n", "utf-8")


if __name__ == "__main__":
    main()
'''
