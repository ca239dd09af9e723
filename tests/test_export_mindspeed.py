"""The configuration for MindSpeed, as its own reader takes it.

MindSpeed needs NPUs and cannot be executed here: fields and their meanings are those
of ``autopipeline_perf.py`` and ``optimpipeline_solver.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from export_helpers import programs, written

from schedopt.errors import ExportError
from schedopt.export import mindspeed, zero_bubble
from schedopt.instance import Backward, Placement


def test_mindspeed_lists_and_their_completion(tmp_path: Path) -> None:
    """As get_profiling_data writes the file and check_skip_profiling reads it."""
    for program in programs(Placement.LINEAR, Backward.WHOLE):
        for name, text in mindspeed.mindspeed_files(program).items():
            (tmp_path / name).write_text(text, "utf-8")
        sizes = {
            "hidden_size": 64,
            "ffn_hidden_size": 256,
            "seq_length": 32,
            "num_attention_heads": 4,
        }
        options = [
            *(f"--{size.replace('_', '-')}={value}" for size, value in sizes.items()),
            "--tensor-model-parallel-size=2",
            "--micro-batch-size=3",
            "--data-parallel-size=2",
        ]

        def complete(*more: str, options: list[str] = options) -> tuple[int, str]:
            found = subprocess.run(
                [sys.executable, mindspeed.SCRIPT_NAME, *options, *more],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            return found.returncode, found.stderr

        code, errors = complete("--layers=5,6,6,5", "--global-batch-size=47")
        assert code == 2
        assert "it must be 48" in errors
        code, errors = complete("--layers=5,6,6", "--global-batch-size=48")
        assert code == 2
        assert "4 numbers are needed" in errors
        assert complete("--layers=5,6,6,5", "--global-batch-size=48") == (0, "")

        (entry,) = json.loads((tmp_path / mindspeed.FILE_NAME).read_text("utf-8"))
        assert entry["model_configs"] == sizes
        (policy,) = entry["optimpipeline_policy"]
        schedule = policy.pop("pp_schedule_list")
        assert policy == {
            "num_layers": 22,
            "pipeline_model_parallel_size": 4,
            "tensor_model_parallel_size": 2,
            "micro_batch_size": 3,
            "global_batch_size": 48,
            "enable_scheduler": True,
            "optimized_mbs_list": [],
            "optimal_layers": [5, 6, 6, 5],
        }
        assert schedule == {
            f"stage{rank}": [f"{op.kind.value}{op.microbatch}" for op in row]
            for rank, row in enumerate(program.rows)
        }


def test_numbers_are_places_where_one_order_is_another() -> None:
    plain = programs(Placement.LINEAR, Backward.WHOLE)[0]
    instance = replace(plain.instance, microbatches=2)
    instance = replace(
        instance,
        stages=instance.stages[:2],
        devices=instance.devices[:2],
        device_of_stage=(0, 1),
    )
    program = written(
        replace(plain, instance=instance), "0F1 0F0 0B1 0B0", "1F1 1B1 1F0 1B0"
    )

    files = mindspeed.mindspeed_files(program)
    (entry,) = json.loads(files[mindspeed.FILE_NAME])
    assert entry["optimpipeline_policy"][0]["pp_schedule_list"] == {
        "stage0": ["F0", "F1", "B0", "B1"],
        "stage1": ["F0", "B0", "F1", "B1"],
    }

    other = written(
        replace(plain, instance=instance), "0F0 0F1 0B1 0B0", "1F1 1B1 1F0 1B0"
    )
    for write in (mindspeed.mindspeed_files, zero_bubble.zero_bubble_module):
        with pytest.raises(ExportError, match="comes after 0B1"):
            write(other)


def test_ops_without_an_entry_are_refused() -> None:
    (split, _) = programs(Placement.LINEAR, Backward.SPLIT)

    with pytest.raises(ExportError, match="0I0: MindSpeed has no entry"):
        mindspeed.mindspeed_files(split)
