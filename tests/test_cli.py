"""The command line in process: every command, every way to fail, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schedopt.baselines import BASELINES
from schedopt.cli import options
from schedopt.formats import load_schedule
from schedopt.solve.solution import SolveParameters
from tests.cli_helpers import ORDER, Run, changed, refused, runner, write_tiny_files


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny_files()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


# -- what holds for every command ------------------------------------------------------

COMMANDS = [
    *("solve", "baseline", "compare", "verify", "simulate", "bound", "plot", "schema"),
    *("run", "table", "record"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run: Run, command: str) -> None:
    ran = run(command, "--help")
    assert ran.code == 0
    assert command in ran.out


def test_help_names_every_command(run: Run) -> None:
    ran = run("--help")
    assert ran.code == 0
    assert all(command in ran.out for command in COMMANDS)


def test_version(run: Run) -> None:
    ran = run("--version")
    assert (ran.code, ran.out.startswith("schedopt ")) == (0, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuchcommand"],
        ["solve"],
        ["solve", "tiny.json", "--nosuchoption"],
        ["solve", "tiny.json", "--time-limit", "0"],
        ["solve", "tiny.json", "--time-limit", "nan"],
        ["solve", "tiny.json", "--workers", "0"],
        ["solve", "tiny.json", "--seed", "-1"],
        ["solve", "tiny.json", "--objective", "nosuch"],
        ["baseline"],
        ["baseline", "zb-h1"],
        ["baseline", "nosuch", "tiny.json"],
        ["compare"],
        ["schema", "nosuch"],
        ["plot", "tiny.json"],
        ["table", ".", "--csv", "--markdown"],
    ],
)
def test_wrong_usage_exits_2(run: Run, arguments: list[str]) -> None:
    ran = run(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err


READERS = [
    ["solve", "FILE"],
    ["baseline", "zb-h1", "FILE"],
    ["compare", "FILE"],
    ["verify", "FILE"],
    ["simulate", "FILE", "order.csv"],
    ["simulate", "tiny.json", "FILE"],
    ["bound", "FILE"],
    ["plot", "FILE", "-o", "x.png"],
    ["run", "FILE"],
    ["table", "FILE"],
    ["record", "FILE", "--store", "store.json"],
]


@pytest.mark.parametrize("arguments", READERS, ids=" ".join)
def test_a_missing_file_is_named(run: Run, arguments: list[str]) -> None:
    ran = run(*(word.replace("FILE", "nosuch.json") for word in arguments))
    refused(ran, "nosuch.json")
    assert ran.out == ""


@pytest.mark.parametrize("arguments", READERS, ids=" ".join)
@pytest.mark.parametrize("text", ["", "{", "[1]", '{"schema": "x"}', "\x00"])
def test_a_broken_file_is_named(run: Run, arguments: list[str], text: str) -> None:
    Path("broken.json").write_text(text)
    refused(run(*(w.replace("FILE", "broken.json") for w in arguments)), "broken.json")


@pytest.mark.parametrize(
    "arguments",
    [
        ["solve", "tiny.json"],
        ["baseline", "zb-h1", "tiny.json"],
        ["simulate", "tiny.json", "order.csv"],
    ],
)
@pytest.mark.parametrize("output", ["nofolder/x.json", "."])
def test_an_output_that_cannot_be_written_is_refused_before_work(
    run: Run, arguments: list[str], output: str
) -> None:
    ran = run(*arguments, "-o", output)
    refused(ran, output.split("/", maxsplit=1)[0])
    assert ran.out == ""


def test_limits_are_options(run: Run) -> None:
    refused(run("bound", "tiny.json", "--max-bytes", "10"), "--max-bytes")
    refused(run("bound", "tiny.json", "--max-ops", "10"), "--max-ops")


def test_the_defaults_shown_are_those_of_the_solver() -> None:
    parameters = SolveParameters()
    assert parameters.time_limit_s == options.TIME_LIMIT_S
    assert parameters.workers == options.WORKERS
    assert parameters.seed == options.SEED


# -- baseline --------------------------------------------------------------------------


def test_baseline_list_names_all(run: Run) -> None:
    ran = run("baseline", "--list")
    assert ran.code == 0
    assert all(name in ran.out for name in BASELINES)
    listed = run("baseline", "--list", "--json").json
    assert [entry["name"] for entry in listed] == list(BASELINES)
    assert all(entry["reference"] for entry in listed)


def test_baseline_writes_what_verify_passes(run: Run) -> None:
    ran = run("baseline", "zb-h1", "tiny.json", "-o", "s.json")
    assert ran.code == 0
    # Device 0 is busy for 4 x (10 + 9 + 5) = 96, and idle while it waits for the first
    # backward (20 to 31) and for the last (93 to 100).
    assert "114 us" in ran.out
    assert run("verify", "s.json").code == 0
    assert load_schedule("s.json").method == "zb-h1"


def test_baseline_json(run: Run) -> None:
    document = run("baseline", "zb-h1", "tiny.json", "--json").json
    assert document["makespan"] == 114
    assert document["bubble_ratio"]["makespan"] == pytest.approx(1 - 96 / 114)
    assert document["peak_memory"] == [20, 15]
    assert document["memory_limit"] == [40, 40]
    assert (document["fits"], document["cap"]) == (True, None)


def test_baseline_is_capped_to_fit(run: Run) -> None:
    tight = changed("tight.json", memory_limit=10)
    ran = run("baseline", "zb-h1", tight, "--json")
    assert (ran.code, ran.json["cap"], ran.json["peak_memory"]) == (0, 1, [10, 10])


def test_a_baseline_that_does_not_fit_is_refused_and_not_written(run: Run) -> None:
    tight = changed("tight.json", memory_limit=30)
    ran = run("baseline", "gpipe", tight, "-o", "s.json")
    refused(ran, "tight.json", "gpipe", "device 0", "40 of 30 MiB")
    assert "makespan" in ran.out  # what it would take is shown
    assert not Path("s.json").exists()


def test_a_baseline_that_does_not_apply_says_why(run: Run) -> None:
    odd = changed("odd.json", microbatches=3)
    refused(run("baseline", "dualpipe", odd), "odd.json", "dualpipe", "microbatches")


# -- compare ---------------------------------------------------------------------------


def test_compare_without_solving_is_sorted_and_complete(run: Run) -> None:
    ran = run("compare", "tiny.json", "--no-solve", "--json")
    assert ran.code == 0
    (comparison,) = ran.json
    rows = comparison["rows"]
    names = {row["schedule"] for row in rows}
    excluded = {entry["schedule"] for entry in comparison["not_applicable"]}
    assert names | excluded == set(BASELINES)
    order = [(not row["fits"], row["makespan"]) for row in rows]
    assert order == sorted(order)
    own = {row["schedule"] for row in rows if row["own_form"]}
    assert {"zb-h1", "zb-h2"} <= own
    assert not own & {"1f1b", "gpipe", "chimera", "interleaved-1f1b"}


def test_compare_prints_a_table_per_instance(run: Run) -> None:
    tight = changed("tight.json", memory_limit=10, name="tight")
    ran = run("compare", "tiny.json", tight, "--no-solve")
    assert ran.code == 0
    assert ran.out.count("instance") >= 2
    assert "zb-h1 (cap 1)" in ran.out
    assert "! gpipe" in ran.out
    assert "1 - work / (devices x T)" in ran.out
    assert "another form" in ran.out


def test_a_schedule_that_does_not_apply_stands_under_the_table(run: Run) -> None:
    odd = changed("odd.json", microbatches=3)
    ran = run("compare", odd, "--no-solve")
    assert "dualpipe: does not apply: needs" in ran.out


# -- simulate --------------------------------------------------------------------------


def test_simulate_an_order_of_rows(run: Run) -> None:
    ran = run("simulate", "tiny.json", "order.csv", "--json")
    assert (ran.code, ran.json["makespan"]) == (0, 114)


def test_simulate_a_schedule_file_gives_its_own_times(run: Run) -> None:
    run("baseline", "zb-h2", "tiny.json", "-o", "s.json")
    ran = run("simulate", "tiny.json", "s.json", "--json", "-o", "t.json")
    assert ran.json["makespan"] == load_schedule("s.json").makespan
    assert run("verify", "t.json").code == 0


def test_simulate_reads_blanks_quotes_idle_cells_and_overlaps(run: Run) -> None:
    spread = ORDER.replace(",", " , ,").replace("0F0", '"0F0"')
    Path("spread.txt").write_text(spread + "\n\n")
    assert run("simulate", "tiny.json", "spread.txt").code == 0
    stages = {"count": 1, "forward": 10, "backward": 14, "overlap": 20}
    one = changed(
        "one.json", devices=1, stages=stages, microbatches=2, backward="whole"
    )
    Path("joint.csv").write_text("0F0,(0F1;0B0)OVERLAP_F_B,0B1")
    # 10, then both together in 20, then 14.
    ran = run("simulate", one, "joint.csv", "--json")
    assert ran.json["makespan"] == 44


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty"]),
        ("hello world\n", ["row 1", "hello", "one row per device"]),
        ("0F0\n", ["has 1 row", "2 devices"]),
        (ORDER.replace("0F3,", "0F3,0RECV_F1,"), ["0RECV_F1", "torch would"]),
        (ORDER.replace(",0W2", ""), ["0W2 is missing", "row of device 0"]),
        (ORDER.replace("0W2", "0W1"), ["0W1", "twice"]),
        (ORDER.replace("0W2", "0W9"), ["0W9", "not an op of this instance"]),
        (ORDER.replace("0F0,0F1,0I0", "0I0,0F0,0F1"), ["deadlocks", "0I0", "0F0"]),
        ("\n".join(reversed(ORDER.split())), ["stands on compute@0", "compute@1"]),
    ],
)
def test_an_order_that_cannot_run_says_why(
    run: Run, text: str, words: list[str]
) -> None:
    Path("bad.csv").write_text(text)
    refused(run("simulate", "tiny.json", "bad.csv"), "bad.csv", *words)


def test_an_order_that_needs_too_much_memory_is_shown_but_refused(run: Run) -> None:
    tight = changed("tight.json", memory_limit=15)
    ran = run("simulate", tight, "order.csv", "-o", "s.json")
    refused(ran, "device 0", "20 of 15 MiB")
    assert "makespan" in ran.out
    assert not Path("s.json").exists()


def test_an_order_file_has_a_size_limit(run: Run) -> None:
    ran = run("simulate", "tiny.json", "order.csv", "--max-bytes", "1000")
    assert ran.code == 0
    Path("long.csv").write_text(ORDER + " " * 2000)
    ran = run("simulate", "tiny.json", "long.csv", "--max-bytes", "1000")
    refused(ran, "long.csv", "--max-bytes")


# -- verify ----------------------------------------------------------------------------


def test_verify_lists_what_is_broken_and_goes_on(run: Run) -> None:
    run("baseline", "zb-h1", "tiny.json", "-o", "good.json")
    document = json.loads(Path("good.json").read_text())
    row = next(row for row in document["ops"] if row["op"] == "1F0")
    row["start"], row["end"] = row["start"] - 1, row["end"] - 1
    Path("bad.json").write_text(json.dumps(document))
    ran = run("verify", "bad.json", "nosuch.json", "good.json")
    assert ran.code == 1
    assert "good.json: keeps every rule" in ran.out
    assert "1F0 starts at 10 us" in ran.out
    assert len(ran.err.splitlines()) == 2
    assert "bad.json" in ran.err.splitlines()[0]
    assert "nosuch.json" in ran.err.splitlines()[1]
    verdicts = run("verify", "bad.json", "nosuch.json", "good.json", "--json").json
    assert [verdict["ok"] for verdict in verdicts] == [False, False, True]
    assert verdicts[0]["violations"][0]["ops"]
    assert "nosuch.json" in verdicts[1]["error"]


# -- plot and schema -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first"), [("x.png", b"\x89PNG"), ("x.svg", b"<?xml"), ("x.pdf", b"%PDF")]
)
def test_plot_writes_a_picture(run: Run, name: str, first: bytes) -> None:
    run("baseline", "zb-h1", "tiny.json", "-o", "s.json")
    assert run("plot", "s.json", "-o", name).code == 0
    assert Path(name).read_bytes().startswith(first)


def test_plot_refuses_another_suffix(run: Run) -> None:
    run("baseline", "zb-h1", "tiny.json", "-o", "s.json")
    refused(run("plot", "s.json", "-o", "x.doc"), "x.doc", ".png")


@pytest.mark.parametrize("name", ["instance", "schedule"])
def test_schema_is_json(run: Run, name: str) -> None:
    ran = run("schema", name)
    assert ran.code == 0
    assert ran.json["$schema"].startswith("https://json-schema.org/")


# -- names from users ------------------------------------------------------------------


def test_markup_and_control_characters_in_names_are_only_text(run: Run) -> None:
    odd = changed("odd.json", name="[bold]x[/bold] :smile:")
    assert "[bold]x[/bold] :smile:" in run("compare", odd, "--no-solve").out
    ran = run("solve", "no\nsuch\x1b[31m.json")
    refused(ran, "\\n", "\\x1b")
