"""Files of other tools become instances, or are refused in one line that says why."""

from __future__ import annotations

import gzip
import json
from itertools import accumulate, combinations, pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from schedopt.formats import load_instance
from schedopt.importers.pipedream_graph import _balanced_sizes, _Layer
from schedopt.instance import Backward, Instance, Placement
from tests.cli_helpers import Run, refused, runner

GRAPH = """\
node1 -- Input0 -- forward_compute_time=90.0, backward_compute_time=0.0, \
activation_size=0.0, parameter_size=0.000
node2 -- Embedding(10, 4) -- forward_compute_time=1.000, backward_compute_time=2.000, \
activation_size=1048576.0, parameter_size=262144.000
node10 -- LSTM(4, 4) -- forward_compute_time=2.0, backward_compute_time=3.5, \
activation_size=[2097152.0; 1048576.0], parameter_size=0.000
node9 -- Dropout(p=0.2) -- forward_compute_time=0.5, backward_compute_time=0.5, \
activation_size=1048576.0, parameter_size=0.000
node11 -- Linear(in=4, out=10) -- forward_compute_time=3.0, backward_compute_time=4.0, \
activation_size=1048576.0, parameter_size=0.000
\tnode1 -- node2
\tnode2 -- node9
\tnode9 -- node10
\tnode10 -- node11
\tnode2 -- node11
"""
LOG = """\
rank 2 Performing ILP with: f=([1000], [1000]),
 b=([1000], [1000]),
 w=([1000], [1000]),
 c=1,
 f_mem=([99], [99]),
 b_mem=([0], [0]),
 w_mem=([-99], [-99]),
 mem_limit=(198, 198)
 iteration 20/ 100 | elapsed time per iteration (ms): 812.1
rank 2 Performing ILP with: f=([18522, 9000], [18513.5, 8000]),
 b=([18086, 9100], [18086, 8100]),
a line of another rank
 w=([9337, 4000], [9331, 3000]),
 c=601,
 f_mem=([1048.576, 2000], [2000, 1000]),
 b_mem=([-524.288, -500], [100.0, 0]),
 w_mem=([-524.288, -1500], [-2100.0, -1000]),
 mem_limit=(40000.0, 41000.0)
"""
TABLE = """\
forward,backward,activation,static_memory,output_bytes

10, 21.5, 2, 7, 4096
11,20,3,,
"""


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    monkeypatch.chdir(tmp_path)
    return runner(capsys)


def imported(run: Run, form: str, *arguments: object) -> Instance:
    ran = run("import", form, *arguments, "-o", "out.yaml")
    assert ran.code == 0, ran.err
    return load_instance("out.yaml")


def write_timers(pp: int, vpp: int, **changes: dict[str, Any]) -> list[str]:
    """Files of two microbatches: F takes 2 + stage, B takes 5, then 7."""
    names = []
    for rank in range(pp):
        events: dict[str, Any] = {"optimizer-start": 1.5}
        for chunk in range(vpp):
            label = f"{chunk}-" if vpp > 1 else ""
            forward = 2 + chunk * pp + rank
            for microbatch in range(2):
                begin = 100.0 * microbatch + 10 * chunk
                for kind, length in (
                    ("forward", forward),
                    ("backward", 5 + 2 * microbatch),
                ):
                    key = f"{kind}-{label}{microbatch}"
                    events[f"{key}-start"] = begin
                    events[f"{key}-end"] = begin + length
        name = f"event_times_PP{pp}_VPP{vpp}_TPxCPxDP_rank_0_pp_rank_{rank}_rank_{rank}"
        names.append(f"{name}.json")
        Path(names[-1]).write_text(
            json.dumps({**events, **changes.get(f"r{rank}", {})})
        )
    return names


def test_a_graph_is_cut_where_its_largest_stage_is_least(run: Run) -> None:
    Path("graph.txt").write_text(GRAPH)
    found = imported(
        run, "pipedream-graph", "graph.txt", "--stages", 2, "--microbatches", 6
    )
    assert (found.time_unit, found.microbatches) == ("ms", 6)
    assert (found.backward, len(found.devices)) == (Backward.WHOLE, 2)
    first, last = found.stages
    # Without the input: 3, 1, 5.5 and 7; what is sent is node10's and node2's output.
    assert (first.forward, first.backward) == (3.5, 6)
    assert (last.forward, last.backward) == (3, 4)
    assert (first.activation, first.output_bytes) == (5, 4 * 2**20)
    assert (last.activation, last.output_bytes) == (5, 0)
    assert (first.static_memory, last.static_memory) == (1, 0)


def test_cuts_are_the_evenest_of_those_with_the_least_maximum() -> None:
    random = Random(0)
    for _ in range(60):
        count = random.randint(1, 7)
        stages = random.randint(1, count)
        loads = [random.choice((0, 1, 2, 5)) for _ in range(count)]
        layers = [_Layer("", load, 0, 0, 0, None, 0) for load in loads]
        sizes = _balanced_sizes(layers, stages, Path("graph.txt"))
        assert len(sizes) == stages
        assert min(sizes) > 0
        every_way = [
            [sum(loads[a:b]) for a, b in pairwise((0, *inner, count))]
            for inner in combinations(range(1, count), stages - 1)
        ]
        found = [sum(loads[a:b]) for a, b in pairwise((0, *accumulate(sizes)))]
        assert found in every_way
        assert measures(found) == min(map(measures, every_way))


def measures(loads: list[int]) -> tuple[int, int]:
    return max(loads), sum(load**2 for load in loads)


def test_a_partitioned_graph_is_cut_where_it_says(run: Run) -> None:
    lines = GRAPH.splitlines()
    for index, stage in enumerate((0, 0, 1, 1, 2)):
        lines[index] += f" -- stage_id={stage}"
    lines[3] = lines[3].replace("stage_id=1", "stage_id=0")  # node9 is before node10
    Path("graph.txt").write_text("\n".join(lines))
    found = imported(run, "pipedream-graph", "graph.txt", "--microbatches", 6)
    assert [stage.forward for stage in found.stages] == [1.5, 2, 3]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("backward_compute_time=2.000", "backward_compute_time=x", ["line 2", '"x"']),
        ("activation_size=[2097152.0; 1", "activation_size=[-1; 1", ["line 3", '"-1"']),
        (
            "\tnode9 -- node10",
            "\tnode9 -- node77",
            ["line 8", "node77", "add the node"],
        ),
        ("\tnode9 -- node10", "\tnode9 node10", ["line 8", "neither a node"]),
        ("node2 -- node9", "node10 -- node9", ["cycle", "node9"]),
        ("node9 -- Dropout", "node2 -- Dropout", ["line 4", "second line"]),
    ],
)
def test_a_wrong_graph_is_refused(
    run: Run, old: str, new: str, words: list[str]
) -> None:
    assert old in GRAPH
    Path("graph.txt").write_text(GRAPH.replace(old, new))
    arguments = ("graph.txt", "--stages", 2, "--microbatches", 6, "-o", "out.yaml")
    refused(run("import", "pipedream-graph", *arguments), "graph.txt", *words)
    assert not Path("out.yaml").exists()


def test_a_graph_needs_cuts_and_a_number_of_microbatches(run: Run) -> None:
    Path("graph.txt").write_text(GRAPH)
    form = ("import", "pipedream-graph", "graph.txt", "-o", "out.yaml")
    refused(run(*form, "--microbatches", 6), "line 2", "stage_id", "--stages")
    refused(run(*form, "--stages", 2), "--microbatches")
    refused(run(*form, "--stages", 5, "--microbatches", 6), "4 layers", "1 to 4")


def test_the_last_line_of_a_zero_bubble_log_counts(run: Run) -> None:
    Path("zb.log").write_text(LOG)
    found = imported(run, "zero-bubble-log", "zb.log", "--microbatches", 8)
    assert (found.placement, found.device_of_stage) == (Placement.V, (0, 1, 1, 0))
    assert found.backward is Backward.SPLIT
    assert [stage.forward for stage in found.stages] == [18522, 18513.5, 8000, 9000]
    assert [stage.backward_input for stage in found.stages] == [
        18086,
        18086,
        8100,
        9100,
    ]
    assert [stage.backward_weight for stage in found.stages] == [9337, 9331, 3000, 4000]
    assert found.communication.latency == 601
    assert (found.stages[0].activation, found.stages[0].activation_until_input) == (
        1000,  # 1048.576 x 10^6 bytes
        500,
    )
    assert (found.stages[1].input_gradient, found.stages[1].activation_until_input) == (
        95.367432,
        0,
    )
    assert [device.memory_limit for device in found.devices] == [
        38146.972656,
        39100.646973,
    ]


def test_chunks_of_a_log_can_be_looped(run: Run) -> None:
    Path("zb.log").write_text(LOG)
    found = imported(
        run, "zero-bubble-log", "zb.log", "--microbatches", 8, "--placement", "looped"
    )
    assert found.device_of_stage == (0, 1, 0, 1)
    assert [stage.forward for stage in found.stages] == [18522, 18513.5, 9000, 8000]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            LOG[LOG.index("rank 2 Performing ILP with: f=([18522") :],
            "",
            ["line 1", "1000"],
        ),
        ("b=([18086, 9100], [18086, 8100])", "b=([18086, 9100])", ["line 10: b", "2"]),
        ("w=([9337", "w=([-9337", ["line 10: w", "-9337"]),
        ("f_mem=([1048.576", "f_mem=(nan", ["line 10: f_mem", "nan"]),
        ("c=601", "d=601", ["line 10", "c is missing"]),
        ("Performing ILP", "Performing LP", ["no line", "Performing ILP with:"]),
        ("mem_limit=(40000.0, 41000.0)", "mem_limit=(1, 2, 3)", ["mem_limit", "2 dev"]),
    ],
)
def test_a_wrong_log_is_refused(run: Run, old: str, new: str, words: list[str]) -> None:
    assert old in LOG
    Path("zb.log").write_text(LOG.replace(old, new))
    arguments = ("zb.log", "--microbatches", 8, "-o", "out.yaml")
    refused(run("import", "zero-bubble-log", *arguments), "zb.log", *words)


def test_limits_that_differ_are_those_of_the_devices_measured(run: Run) -> None:
    Path("zb.log").write_text(LOG)
    form = ("zero-bubble-log", "zb.log", "--microbatches", 8, "--devices", 4)
    ran = run("import", *form, "-o", "out.yaml")
    refused(ran, "zb.log", "limits of 2 devices", "--devices 4", "--memory-limit")
    found = imported(run, *form, "--memory-limit", 50)
    assert [device.memory_limit for device in found.devices] == [50] * 4


def test_timers_give_medians_by_stage(run: Run) -> None:
    found = imported(run, "pp-timers", *write_timers(2, 1))
    assert (found.time_unit, found.microbatches) == ("ms", 2)
    assert [stage.forward for stage in found.stages] == [2, 3]
    assert [stage.backward for stage in found.stages] == [6, 6]
    assert found.placement is Placement.LINEAR


def test_a_note_says_which_file_of_a_rank_counts(run: Run) -> None:
    names = write_timers(2, 1)
    again = names[1].replace("rank_1.json", "rank_3.json")
    Path(again).write_text("{}")
    ran = run("import", "pp-timers", *names, again, "-o", "out.json", "--json")
    assert "the first was taken" in ran.json["notes"][-1]
    ran = run("import", "pp-timers", *names, "-o", "out.json", "--json")
    assert len(ran.json["notes"]) == 1


def test_chunks_of_timers_are_looped(run: Run) -> None:
    names = write_timers(2, 2)
    packed = Path(names[1] + ".gz")
    packed.write_bytes(gzip.compress(Path(names[1]).read_bytes()))
    found = imported(run, "pp-timers", names[0], packed)
    assert found.placement is Placement.LOOPED
    assert [stage.forward for stage in found.stages] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"forward-1-end": "x"}, ["forward-1-end", '"x"', "number"]),
        ({"forward-1-end": 3.0}, ["forward of microbatch 1", "before its start"]),
        ({"forward-2-start": 3.0}, ["microbatch 2", "no end"]),
        ({"forward-0-1-start": 3.0}, ["forward-0-1-start", "VPP = 1"]),
    ],
)
def test_wrong_timers_are_refused(
    run: Run, changes: dict[str, Any], words: list[str]
) -> None:
    names = write_timers(2, 1, r1=changes)
    refused(run("import", "pp-timers", *names, "-o", "out.yaml"), "pp_rank_1", *words)


def test_timers_need_every_rank_and_their_names(run: Run) -> None:
    names = write_timers(2, 1)
    form = ("import", "pp-timers", "-o", "out.yaml")
    refused(run(*form, names[0]), "pp_rank 1 is missing")
    Path("events.json").write_text("{}")
    refused(run(*form, "events.json"), "its name must say")
    Path(names[1]).write_text("{}")
    refused(run(*form, *names), "no forward of stage 1")
    Path(names[1]).write_text("[1")
    refused(run(*form, *names), "line 1", "not JSON", "whole")
    Path(names[1]).write_text("[" * 100_000)
    refused(run(*form, *names), "too deeply nested")


def test_a_table_has_a_row_per_stage(run: Run) -> None:
    Path("stages.csv").write_text(TABLE)
    arguments = ("--microbatches", 4, "--time-unit", "ms", "--latency", 0.5)
    found = imported(run, "stage-csv", "stages.csv", *arguments)
    assert (found.time_unit, found.communication.latency) == ("ms", 0.5)
    assert [stage.forward for stage in found.stages] == [10, 11]
    assert [stage.backward for stage in found.stages] == [21.5, 20]
    assert [stage.static_memory for stage in found.stages] == [7, 0]


def test_a_table_can_place_its_stages(run: Run) -> None:
    Path("stages.csv").write_text("forward,backward,device\n1,2,1\n1,2,0\n1,2,1\n")
    found = imported(run, "stage-csv", "stages.csv", "--microbatches", 4)
    assert found.device_of_stage == (1, 0, 1)


def test_a_table_leaves_no_device_out(run: Run) -> None:
    # Numbered from 1: device 0 would stand idle.
    Path("stages.csv").write_text("forward,backward,device\n1,2,1\n1,2,2\n")
    ran = run("import", "stage-csv", "stages.csv", "--microbatches", 4, "-o", "o.yaml")
    refused(ran, "stages.csv", "device", "no stage is on device 0", "from 0")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("forward,", "foward,", ["line 1", "foward", "did you mean forward?"]),
        ("activation,", "backward,", ["line 1", "backward", "second column"]),
        ("activation,", "modules,", ["line 1", "modules", "gradient_bytes or device"]),
        ("21.5", "-1", ["line 3: backward", '"-1"', "at least 0"]),
        ("21.5", "1e999", ["line 3: backward", "1e999", "finite"]),
        ("21.5", "2_1", ["line 3: backward", '"2_1"']),  # 21 to Python only
        ("21.5", "٢", ["line 3: backward"]),
        ("11,", ",", ["line 4", "forward is empty"]),
        ("11,20,3,,", "11,20", ["line 4", "5 cells"]),
        ("11,20,3,,", "11,20,3,,,9", ["line 4", "5 cells"]),
    ],
)
def test_a_wrong_table_is_refused(
    run: Run, old: str, new: str, words: list[str]
) -> None:
    assert old in TABLE
    Path("stages.csv").write_text(TABLE.replace(old, new))
    arguments = ("stages.csv", "--microbatches", 4, "-o", "out.yaml")
    refused(run("import", "stage-csv", *arguments), "stages.csv", *words)


def test_what_the_format_forbids_is_said_of_the_field(run: Run) -> None:
    text = "forward,backward,activation,activation_until_input\n1,2,3,4\n"
    Path("stages.csv").write_text(text)
    arguments = ("stages.csv", "--microbatches", 4, "-o", "out.yaml")
    ran = run("import", "stage-csv", *arguments)
    refused(ran, "stages.csv", "stages[0].activation_until_input", "at most")


def test_an_import_as_json_is_an_instance(run: Run) -> None:
    Path("stages.csv").write_text(TABLE)
    arguments = ("stages.csv", "--microbatches", 4, "-o", "out.json", "--json")
    document = run("import", "stage-csv", *arguments).json
    assert (document.pop("file"), document.pop("notes")) == ("out.json", [])
    Path("again.json").write_text(json.dumps(document))
    assert load_instance("again.json") == load_instance("out.json")


def test_a_name_that_yaml_would_read_as_a_number_stays_a_name(run: Run) -> None:
    Path("stages.csv").write_text(TABLE)
    arguments = ("stages.csv", "--microbatches", 4, "--name", "1e3")
    assert imported(run, "stage-csv", *arguments).name == "1e3"


@pytest.mark.parametrize(
    ("form", "option"),
    [("stage-csv", "--stages"), ("pipedream-graph", "--time-unit")],
)
def test_an_option_of_another_format_is_wrong_usage(
    run: Run, form: str, option: str
) -> None:
    value = 2 if option == "--stages" else "ms"
    ran = run("import", form, "nosuch", option, value, "-o", "out.yaml")
    assert ran.code == 2
    assert option in ran.err


@pytest.mark.parametrize("form", ["stage-csv", "zero-bubble-log", "pipedream-graph"])
def test_files_that_cannot_be_read_are_named(run: Run, form: str) -> None:
    command = ("import", form, "--microbatches", 4, "-o", "out.yaml")
    refused(run(*command, "nosuch"), "nosuch", "no such file")
    refused(run(*command, "."), "directory")
    Path("empty").write_text(" \n")
    refused(run(*command, "empty"), "empty", "is empty")
    refused(run(*command, "empty", "other"), "other", "at a time")
    Path("large").write_text("forward\n" + "1\n" * 100)
    refused(run(*command, "large", "--max-bytes", 50), "50 bytes", "--max-bytes")
    Path("not.gz").write_text("forward\n1\n")
    refused(run(*command, "not.gz"), "not.gz", "gzip")
