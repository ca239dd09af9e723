"""Torch's formats: what is written, what is refused, and new microbatch numbers."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from schedopt.errors import ExportError
from schedopt.export.checking import faults
from schedopt.export.formats import FORMATS, export, format_of
from schedopt.export.lowering import lower
from schedopt.export.program import Program
from schedopt.export.torch_rows import compute_only_csv
from schedopt.export.torch_tokens import parse_rows
from schedopt.ops import Op, OpKind
from schedopt.runtimes import PROFILES
from schedopt.verify import violations
from tests.cli_helpers import ORDER, Run, changed, refused, runner, write_tiny_files
from tests.torch_programs import program
from tests.torch_schedules import drawn

FOUR = {
    "count": 4,
    "forward": 10,
    "backward_input": 9,
    "backward_weight": 5,
    "activation": 10,
}
# The second rank takes microbatch 2 first, then 0, 3 and 1.
SWAPPED = (
    "0F2,0F0,0I2,0W2,0F3,0I0,0W0,0F1,0I3,0W3,0I1,0W1\n"
    "1F2,1I2,1F0,1I0,1W2,1F3,1I3,1W0,1F1,1I1,1W3,1W1\n"
)
MODEL = "(MODEL.py is yours: the top of run_torch.py says what it has)"
STAGE_0 = (
    "torch-csv runs the whole backward of stage 0 in its W, and the schedule does not"
    " count on it: times and memory of that stage will be others; solve with --runtime"
    " torch-csv"
)


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    monkeypatch.chdir(tmp_path)
    write_tiny_files()
    run = runner(capsys)
    assert run("simulate", "tiny.json", "order.csv", "-o", "tiny.s.json").code == 0
    return run


def stages_on(shape: str, ranks: int = 2, stages: int = 4) -> dict[str, Any]:
    return {
        "placement": shape,
        "devices": ranks,
        "stages": {**FOUR, "count": stages},
        "microbatches": 2,
        "memory_limit": 1000,
    }


# The command


def test_export_writes_the_rows_and_the_script(run: Run) -> None:
    ran = run("export", "torch-csv", "tiny.s.json", "-o", "new/folder")
    assert ran.code == 0
    folder = Path("new/folder")
    assert {path.name for path in folder.iterdir()} == {"tiny.csv", "run_torch.py"}
    assert (folder / "tiny.csv").read_text() == ORDER
    assert ran.out.splitlines() == [
        "wrote  new/folder/tiny.csv",
        "       new/folder/run_torch.py",
        f"note   {STAGE_0}",
        "next   cd new/folder && torchrun --nproc-per-node 2 run_torch.py tiny.csv"
        f" --model MODEL.py  {MODEL}",
    ]
    compile((folder / "run_torch.py").read_text(), "run_torch.py", "exec")


def test_export_prints_json(run: Run) -> None:
    ran = run("export", "torch-csv-comms", "tiny.s.json", "--json")
    assert ran.json == {
        "format": "torch-csv-comms",
        "schedule": "tiny.s.json",
        "files": ["tiny.csv", "run_torch.py"],
        "notes": [STAGE_0],
        "next": "torchrun --nproc-per-node 2 run_torch.py tiny.csv --model MODEL.py"
        f"  {MODEL}",
    }
    rows = parse_rows(Path("tiny.csv").read_text())
    assert faults(rows, microbatches=4, rank_of_stage=(0, 1)) == ()
    assert sum(token.kind.is_transfer for row in rows for token in row) == 16


def test_export_lists_every_format(run: Run) -> None:
    shown = run("export", "--list").out
    listed = run("export", "--list", "--json").json
    assert [entry["name"] for entry in listed] == list(FORMATS)
    for entry in listed:
        assert f"\n{entry['name']} " in shown
        assert entry["evidence"] in ("executed", "validated")
        assert entry["runtime"] is None or entry["runtime"] in PROFILES
    assert {"torch-csv", "torch-csv-comms", "torchtitan", "automodel"} <= set(FORMATS)


def test_wrong_usage_and_unknown_formats(run: Run) -> None:
    assert run("export").code == 2
    assert run("export", "torch-csv").code == 2
    refused(
        run("export", "torch-cvs", "tiny.s.json"),
        "torch-cvs",
        "did you mean torch-csv?",
    )
    refused(run("export", "torch-csv", "nosuch.json"), "nosuch.json")
    refused(run("export", "torch-csv", "tiny.json"), "tiny.json", "schedopt solve")


def test_a_schedule_that_the_verifier_refuses_is_not_exported(run: Run) -> None:
    document = json.loads(Path("tiny.s.json").read_text())
    document["ops"][0]["start"] += 5
    Path("wrong.json").write_text(json.dumps(document))
    ran = run("export", "torch-csv", "wrong.json", "-o", "out")
    refused(ran, "wrong.json", "the verifier refuses it")
    assert not Path("out").exists()


def test_a_folder_that_cannot_be_made(run: Run) -> None:
    Path("file").write_text("")
    refused(run("export", "torch-csv", "tiny.s.json", "-o", "file/out"), "file/out")


def test_a_program_that_a_runtime_refuses_is_not_written(run: Run) -> None:
    changed("uneven.json", placement=[0, 0, 1], stages={**FOUR, "count": 3})
    Path("uneven.csv").write_text("0F0,1F0,1I0,0I0,1W0,0W0\n2F0,2I0,2W0\n")
    changed(
        "uneven.json",
        placement=[0, 0, 1],
        stages={**FOUR, "count": 3},
        microbatches=1,
        memory_limit=1000,
    )
    assert run("simulate", "uneven.json", "uneven.csv", "-o", "u.json").code == 0
    assert run("export", "torch-csv", "u.json", "-o", "torch").code == 0
    for name in ("torchtitan", "automodel"):
        ran = run("export", name, "u.json", "-o", "out")
        refused(ran, "u.json", "placement", name)
        assert not Path("out").exists()


# The rows


def test_file_names_are_safe() -> None:
    assert program(name="a b/../é:c").file_stem == "a-b-..-c"
    assert program(name="…").file_stem == "schedule"
    assert program(name="x" * 300).file_stem == "x" * 80


def test_what_torch_reads_is_the_order_of_the_schedule() -> None:
    assert compute_only_csv(program()) == ORDER
    whole = "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n"
    fields = {"backward": "whole", "microbatches": 2}
    assert export(program(whole, **fields), "torch-csv").files["tiny.csv"] == whole


def test_recomputations_are_left_to_the_model() -> None:
    text = "0F0,0F1,0R0,0B0,0R1,0B1\n1F0,1B0,1F1,1B1\n"
    fields = {"backward": "whole", "microbatches": 2, "recompute": [0]}
    made = export(program(text, **fields), "torch-csv")
    assert made.files["tiny.csv"] == text.replace("0R0,", "").replace("0R1,", "")
    (note,) = made.notes
    assert note.startswith("stages 0 are recomputed")


def test_a_recomputed_stage_with_a_split_backward_is_refused() -> None:
    text = "0F0,0R0,0I0,0W0\n1F0,1R0,1I0,1W0\n"
    with pytest.raises(ExportError, match="recompute: 1I0 is half"):
        export(program(text, microbatches=1, recompute="full"), "torch-csv")


def test_joint_ops_are_refused() -> None:
    stages = {**FOUR, "count": 2, "backward": 14, "overlap": 20}
    text = "0F0,0OVERLAP_F_B1:0B0,0B1\n1F0,1B0,1F1,1B1\n"
    fields = {"backward": "whole", "microbatches": 2, "stages": stages}
    with pytest.raises(ExportError, match="0OVERLAP_F_B1:0B0"):
        export(program(text, **fields, memory_limit=1000), "torch-csv")


# Microbatch numbers


def kinds_and_times(one: Program) -> Counter[tuple[OpKind, int, int, int]]:
    start = one.schedule.start
    return Counter((op.kind, op.stage, start[op], one.schedule.end(op)) for op in start)


def forwards(one: Program, stage: int) -> list[int]:
    ops = [op for row in one.rows for op in row]
    return [o.microbatch for o in ops if (o.kind, o.stage) == (OpKind.FORWARD, stage)]


def test_equal_microbatches_are_renumbered_where_that_is_all() -> None:
    made = export(program(SWAPPED), "torch-csv")
    note, stage_0 = made.notes
    assert stage_0 == STAGE_0
    assert note.startswith("microbatches are numbered as the last stage runs")
    number = {"2": "0", "0": "1", "3": "2", "1": "3"}
    assert made.files["tiny.csv"] == "".join(
        number[char] if before in "FIW" and char in number else char
        for before, char in zip(" " + SWAPPED, SWAPPED, strict=False)
    )


def test_unequal_microbatches_keep_their_numbers() -> None:
    scaled = program(SWAPPED, microbatch_scale=[1, 1, 2, 1], memory_limit=1000)
    assert not scaled.can_be_relabelled
    with pytest.raises(ExportError, match="1F0 comes after 1F2"):
        export(scaled, "torch-csv")
    with pytest.raises(ValueError, match="microbatches that differ"):
        scaled.relabelled()
    equal = program(SWAPPED, microbatch_scale=[2, 2, 2, 2])
    assert len(export(equal, "torch-csv").notes) == 2


@pytest.mark.parametrize("one_order", [False, True])
@pytest.mark.parametrize("form", ["whole", "split", "mixed"])
def test_new_numbers_change_no_time_and_break_no_rule(
    one_order: bool, form: str
) -> None:
    rng = random.Random(3)
    backward = "choose" if form == "mixed" else form
    for _ in range(12):
        rows, placement, microbatches = drawn(rng, "explicit", form)
        old = program(
            "\n".join(",".join(map(str, row)) for row in rows),
            placement=list(placement),
            devices=len(rows),
            stages={**FOUR, "count": len(placement), "backward": 12},
            microbatches=microbatches,
            backward=backward,
            memory_limit=1000,
        )
        new = old.relabelled(one_order=one_order)
        assert kinds_and_times(new) == kinds_and_times(old)
        assert violations(new.schedule.graph, new.schedule.start) == ()
        assert new.schedule.peak_memory == old.schedule.peak_memory
        assert [[op.kind for op in row] for row in new.rows] == [
            [op.kind for op in row] for row in old.rows
        ]
        in_order = list(range(microbatches))
        stages = range(len(placement)) if one_order else [len(placement) - 1]
        for stage in stages:
            assert forwards(new, stage) == in_order
        lowered = lower(new).rows
        assert faults(lowered, rank_of_stage=placement) == ()


def test_one_order_holds_for_every_class() -> None:
    new = program(SWAPPED).relabelled(one_order=True)
    for row in new.rows:
        for kind in (OpKind.FORWARD, OpKind.BACKWARD_INPUT, OpKind.BACKWARD_WEIGHT):
            assert [op.microbatch for op in row if op.kind is kind] == [0, 1, 2, 3]


# torchtitan and Automodel


def one_after_the_other(*row_of_stages: tuple[int, ...]) -> str:
    """Rows in which each of two microbatches goes all the way down and back."""
    return "".join(
        ",".join(
            [f"{s}F0" for s in stages]
            + [f"{s}{kind}0" for s in reversed(stages) for kind in "IW"]
            + [f"{s}F1" for s in stages]
            + [f"{s}{kind}1" for s in reversed(stages) for kind in "IW"]
        )
        + "\n"
        for stages in row_of_stages
    )


SHAPES = {
    "linear": (one_after_the_other((0,), (1,)), 2),
    "looped": (one_after_the_other((0, 2), (1, 3)), 4),
    "v": (one_after_the_other((0, 3), (1, 2)), 4),
}


@pytest.mark.parametrize(
    ("shape", "titan", "automodel"),
    [
        ("linear", "1F1B", "GPipe"),
        ("looped", "PipelineScheduleMulti", "PipelineScheduleMulti"),
        ("v", "ZBVZeroBubble", "ZBVZeroBubble"),
    ],
)
def test_the_configuration_has_the_placement_of_the_rows(
    shape: str, titan: str, automodel: str
) -> None:
    text, stages = SHAPES[shape]
    one = program(text, **stages_on(shape, stages=stages))
    made = export(one, "torchtitan").files
    assert made["tiny.csv"] == text
    assert dict(line.split() for line in made["tiny.torchtitan.args"].splitlines()) == {
        "--parallelism.pipeline_parallel_degree": "2",
        "--parallelism.pipeline_parallel_schedule": titan,
        "--parallelism.pipeline_parallel_schedule_csv": "tiny.csv",
        "--parallelism.num_pp_microbatches": "2",
    }
    made = export(one, "automodel").files
    assert made["tiny.csv"] == text
    assert yaml.safe_load(made["tiny.automodel.yaml"]) == {
        "step_scheduler": {"local_batch_size": 2},
        "distributed": {
            "pp_size": 2,
            "pipeline": {
                "pp_schedule": automodel,
                "pp_schedule_csv": "tiny.csv",
                "pp_microbatch_size": 1,
            },
        },
    }


@pytest.mark.parametrize("shape", ["linear", "looped", "v"])
def test_torch_gives_the_ranks_those_stages_for_that_name(shape: str) -> None:
    """torchtitan and Automodel ask torch's classes whether a name is single-stage."""
    schedules = pytest.importorskip("torch.distributed.pipelining.schedules")
    text, stages = SHAPES[shape]
    one = program(text, **stages_on(shape, stages=stages))
    made = export(one, "torchtitan").files["tiny.torchtitan.args"]
    name = made.splitlines()[1].split()[1]
    found = schedules.get_schedule_class(name)
    assert issubclass(found, schedules.PipelineScheduleSingle) == (shape == "linear")
    assert (found is schedules.ScheduleZBVZeroBubble) == (shape == "v")


@pytest.mark.parametrize("name", ["torchtitan", "automodel"])
def test_other_placements_are_refused(name: str) -> None:
    text = "0F0,1F0,1I0,1W0,0I0,0W0\n2F0,3F0,3I0,3W0,2I0,2W0\n"
    contiguous = {**stages_on("linear"), "microbatches": 1}
    with pytest.raises(ExportError, match="placement"):
        export(program(text, **contiguous), name)
    assert export(program(text, **contiguous), "torch-csv").files["tiny.csv"] == text
    single = program(
        "0F0,0I0,0W0\n",
        devices=1,
        microbatches=1,
        stages={**FOUR, "count": 1},
        memory_limit=1000,
    )
    with pytest.raises(ExportError, match="one device is no pipeline"):
        export(single, name)


def test_formats_are_named_and_described() -> None:
    for name, entry in FORMATS.items():
        assert entry.name == name == name.lower()
        assert entry.summary
        assert format_of(name) is entry
        entry.next_step.format(stem="x", ranks=2, cd="cd y && ", folder="y")


def test_what_the_schedule_does_not_count_on_is_said() -> None:
    fields = {"memory_limit": 1000}
    assert export(program(**fields), "torchtitan").notes == (
        STAGE_0.replace("torch-csv", "torchtitan"),
    )
    # Solved for a runtime that does the same on stage 0, or one with a true split.
    for runtime, notes in (("automodel", ()), ("zero-bubble", (STAGE_0,))):
        assert export(program(**fields, runtime=runtime), "torch-csv").notes == notes
    whole = "0F0,0B0\n1F0,1B0\n"
    same = program(whole, **fields, backward="whole", microbatches=1)
    assert export(same, "torch-csv").notes == ()
    assert export(program(**fields), "zero-bubble").notes == ()


def test_ops_that_torch_has_no_token_for() -> None:
    one = program()
    row = (*one.rows[0], Op(OpKind.FORWARD, 0, 0, step=1))
    with pytest.raises(ExportError, match="1@0F0 on device 0"):
        compute_only_csv(Program(one.instance, one.schedule, (row, one.rows[1])))
