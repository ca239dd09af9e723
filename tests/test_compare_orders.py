"""compare --order: a user's own order beside the hand-made ones and the optimizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli_helpers import ORDER, Run, changed, refused, runner

WHOLE = "0F0,0F1,0B0,0F2,0B1,0F3,0B2,0B3\n1F0,1B0,1F1,1B1,1F2,1B2,1F3,1B3\n"
# torch's form with transfers, two microbatches.
WITH_TRANSFERS = (
    "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1,0REDUCE_GRAD\n"
    "1RECV_F0,1F0,1RECV_F1,1F1,1B0,1SEND_B0,1B1,1SEND_B1,1REDUCE_GRAD\n"
)


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    monkeypatch.chdir(tmp_path)
    return runner(capsys)


def rows(run: Run, instance: str, *orders: str) -> dict[str, Any]:
    """The rows of a comparison by schedule."""
    options = [word for order in orders for word in ("--order", order)]
    ran = run("compare", instance, "--no-solve", "--json", *options)
    assert ran.code == 0, ran.err
    (document,) = ran.json
    return {row["schedule"]: row for row in document["rows"]}


def test_a_given_order_is_a_row_of_its_own(run: Run) -> None:
    Path("own.csv").write_text(ORDER)
    found = rows(run, changed("tiny.json"), "own.csv")
    assert found["own.csv"]["makespan"] == found["zb-h1"]["makespan"] == 114
    assert found["own.csv"]["own_form"]
    assert found["own.csv"]["fits"]


def test_an_order_with_whole_backwards_runs_on_that_form(run: Run) -> None:
    Path("whole.csv").write_text(WHOLE)
    found = rows(run, changed("tiny.json"), "whole.csv")
    assert found["whole.csv"]["form"] == "linear, whole"
    assert not found["whole.csv"]["own_form"]
    assert found["whole.csv"]["makespan"] == found["1f1b"]["makespan"] == 124


def test_an_order_says_where_its_stages_live(run: Run) -> None:
    # Device 1 has stage 0: all stages are equal, so that nothing else changes.
    Path("swapped.csv").write_text("\n".join(reversed(WHOLE.split())))
    found = rows(run, changed("tiny.json"), "swapped.csv")
    assert found["swapped.csv"]["form"] == "explicit, whole"
    assert found["swapped.csv"]["makespan"] == 124


def test_a_mixed_order_takes_both_backwards(run: Run) -> None:
    mixed = ORDER.replace("0I3,0W3", "0B3")
    Path("mixed.csv").write_text(mixed)
    found = rows(run, changed("tiny.json"), "mixed.csv")
    assert found["mixed.csv"]["form"] == "linear, choose"


def test_a_schedule_file_is_an_order_too(run: Run) -> None:
    instance = changed("tiny.json")
    assert run("baseline", "zb-h2", instance, "-o", "zb-h2.json").code == 0
    assert run("baseline", "1f1b", instance, "-o", "1f1b.json").code == 0
    found = rows(run, instance, "zb-h2.json", "1f1b.json")
    for name in ("zb-h2", "1f1b"):
        assert found[f"{name}.json"]["makespan"] == found[name]["makespan"]
        assert found[f"{name}.json"]["form"] == found[name]["form"]


def test_an_order_that_exceeds_memory_is_shown_as_such(run: Run) -> None:
    Path("own.csv").write_text(ORDER)
    found = rows(run, changed("small.json", memory_limit=19), "own.csv")
    assert not found["own.csv"]["fits"]
    assert found["own.csv"]["gap"] is None


def test_the_gap_of_an_order_is_to_the_bound_of_its_form(run: Run) -> None:
    Path("own.csv").write_text(ORDER)
    instance = changed("tiny.json")
    options = ("--time-limit", 20, "--workers", 1, "--reproducible", "--json")
    ran = run("compare", instance, "--order", "own.csv", *options)
    assert ran.code == 0, ran.err
    (document,) = ran.json
    by_name = {row["schedule"]: row for row in document["rows"]}
    assert by_name["own.csv"]["gap"] == by_name["zb-h1"]["gap"]
    assert by_name["own.csv"]["gap"] == pytest.approx((114 - 107) / 114)


def test_transfers_that_torch_would_execute_are_left_out(run: Run) -> None:
    Path("comms.csv").write_text(WITH_TRANSFERS)
    instance = changed("two.json", microbatches=2)
    found = rows(run, instance, "comms.csv")
    assert found["comms.csv"]["makespan"] == found["gpipe"]["makespan"]
    ran = run(
        "simulate", changed("w.json", microbatches=2, backward="whole"), "comms.csv"
    )
    assert ran.code == 0, ran.err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("1RECV_F0,1F0,1RECV_F1", "1RECV_F1,1RECV_F0,1F0", ["1RECV_F1", "0SEND_F0"]),
        ("0SEND_F1,", "", ["0SEND_F1", "missing"]),
        (",0REDUCE_GRAD", "", ["0REDUCE_GRAD"]),
        ("0F1", "0F1x", ["row 1", "0F1x"]),
        ("0F1", "0F5", ["comms.csv"]),
    ],
)
def test_transfers_that_torch_would_get_wrong_are_refused(
    run: Run, old: str, new: str, words: list[str]
) -> None:
    assert old in WITH_TRANSFERS
    Path("comms.csv").write_text(WITH_TRANSFERS.replace(old, new))
    instance = changed("two.json", microbatches=2)
    refused(run("compare", instance, "--no-solve", "--order", "comms.csv"), *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (WHOLE.replace(",0B3", ""), ["0", "missing"]),
        (WHOLE.replace("1F3", "2F3"), ["2F3"]),
        (WHOLE.split(maxsplit=1)[0], ["1 row, but", "2 devices"]),
        ("0B0,0F0\n1F0,1B0\n", ["own.csv"]),
        ("hello\n", ["hello", "not an op"]),
    ],
)
def test_an_order_of_another_pipeline_is_refused(
    run: Run, text: str, words: list[str]
) -> None:
    Path("own.csv").write_text(text)
    ran = run("compare", changed("tiny.json"), "--no-solve", "--order", "own.csv")
    refused(ran, "own.csv", *words)
    assert not ran.out


def test_an_order_that_cannot_be_read_is_named(run: Run) -> None:
    Path("empty.csv").write_text(" \n")
    for name, words in (
        ("nosuch.csv", "no such file; check the path"),
        (".", "is a directory"),
        ("empty.csv", "is empty"),
    ):
        ran = run("compare", changed("tiny.json"), "--no-solve", "--order", name)
        refused(ran, name, words)


def test_an_instance_may_lack_what_an_order_needs(run: Run) -> None:
    Path("own.csv").write_text(ORDER)
    stages = {"count": 2, "forward": 10, "backward": 14}
    instance = changed("whole.json", backward="whole", stages=stages)
    document = json.loads(Path(instance).read_text())
    assert document["backward"] == "whole"
    ran = run("compare", instance, "--no-solve", "--order", "own.csv")
    refused(ran, "own.csv", "backward_input")
