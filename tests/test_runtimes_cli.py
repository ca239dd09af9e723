"""``solve --runtime`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schedopt.cli.options import PlacementChoice
from schedopt.formats import load_schedule
from schedopt.runtimes import PROFILES
from schedopt.solve import runtime_price
from tests.cli_helpers import Run, changed, runner

FAST = ("--reproducible", "--time-limit", "4", "--no-gantt")
BRIEF = ("--reproducible", "--time-limit", "0.2", "--no-gantt")


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    monkeypatch.chdir(tmp_path)
    return runner(capsys)


def test_price_is_printed_and_the_file_names_the_runtime(run: Run) -> None:
    changed("tiny.json")
    ran = run("solve", "tiny.json", "--runtime", "jaxpp", "-o", "out.json", *FAST)
    assert ran.code == 0
    last = ran.out.splitlines()[-1]
    assert last.startswith("price of jaxpp's rules  +")
    assert "(free: 107 us, bound 107 us)" in last
    assert load_schedule("out.json").instance.runtime == "jaxpp"
    assert run("verify", "out.json").code == 0


def test_json_has_both_values_and_bounds(run: Run) -> None:
    changed("tiny.json")
    ran = run("solve", "tiny.json", "--runtime", "torch-csv", "--json", *FAST[:-1])
    assert ran.code == 0
    found = ran.json["runtime"]
    assert found["name"] == "torch-csv"
    assert found["free_value"] == found["free_lower_bound"] == 107
    assert found["free_bound_holds_under_the_rules"] is True
    expected = (ran.json["value"] - found["free_value"]) / found["free_value"]
    assert found["price"] == pytest.approx(expected)
    plain = run("solve", "tiny.json", "--json", *FAST[:-1])
    assert "runtime" not in plain.json


def test_refusals_name_the_field_or_the_name(run: Run) -> None:
    changed("tiny.json")
    ran = run("solve", "tiny.json", "--runtime", "deepspeed")
    assert (ran.code, ran.out) == (1, "")
    assert 'tiny.json: backward = "split": runtime deepspeed has no split' in ran.err
    ran = run("solve", "tiny.json", "--runtime", "deep-speed")
    assert ran.code == 2
    assert "did you mean deepspeed?" in ran.err


def test_placement_and_runtime_go_together(run: Run) -> None:
    changed("tiny.json")
    ran = run("solve", "tiny.json", "--runtime", "colossalai", *FAST)
    assert ran.code == 1
    assert "placement" in ran.err
    arguments = ("--runtime", "colossalai", "--placement", "v", *BRIEF)
    ran = run("solve", "tiny.json", *arguments)
    assert ran.code == 0
    assert "price of colossalai's rules" in ran.out
    assert PlacementChoice.V in ran.out


def test_placement_any_tries_those_that_the_runtime_has(run: Run) -> None:
    changed("tiny.json", backward="choose")
    arguments = ("--placement", "any", *BRIEF)
    ran = run("solve", "tiny.json", "--runtime", "deepspeed", *arguments)
    assert ran.code == 0
    assert "The instance's own placement is linear." in ran.out
    for other in ("looped", "v"):
        refused = f'{other}: not tried: placement = "{other}": runtime deepspeed cannot'
        assert refused in ran.out
    ran = run("solve", "tiny.json", "--runtime", "colossalai", *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.count("\n") == 1
    assert 'tiny.json: placement = "linear": runtime colossalai cannot' in ran.err
    assert "it has v with 2 per device" in ran.err


def test_period_that_the_rules_exclude_is_refused_before_solving(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed("tiny.json", backward="whole")
    monkeypatch.setattr(runtime_price, "solve", None)
    arguments = ("--runtime", "deepspeed", "--objective", "period", *FAST)
    ran = run("solve", "tiny.json", *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert "has no period under the rules of deepspeed" in ran.err


def test_bidirectional_is_shown_and_refused_by_runtimes(run: Run) -> None:
    """Files that people read need no runtime that has the placement."""
    changed("tiny.json", placement="bidirectional", backward="whole", memory_limit=90)
    assert run("baseline", "chimera", "tiny.json", "-o", "both.json").code == 0
    for name in ("chrome-trace", "json", "csv"):
        assert run("export", name, "both.json", "-o", "out").code == 0
    content = json.loads(Path("out/tiny.program.json").read_text())
    shown = [op["op"] for rank in content["ranks"] for op in rank["ops"]]
    assert sorted(shown) == sorted(
        f"{stage}{kind}{m}" for stage in (0, 1) for kind in "FB" for m in range(4)
    )
    for name in ("torch-csv", "deepspeed"):
        ran = run("export", name, "both.json", "-o", "out")
        assert (ran.code, ran.out) == (1, "")
        assert f"placement: {name} has no stage on two devices" in ran.err


def test_runtime_of_a_file_holds_without_the_option(run: Run) -> None:
    changed("tiny.json", runtime="zero-bubble")
    ran = run("solve", "tiny.json", "-o", "out.json", *FAST)
    assert ran.code == 0
    assert "price" not in ran.out
    assert json.loads(Path("out.json").read_text())["instance"]["runtime"] in PROFILES
