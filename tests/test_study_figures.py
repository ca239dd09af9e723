"""Figures in prose are those of the committed records."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from runpy import run_path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"


def prose(path: Path) -> str:
    return re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))


def records(study: str) -> list[dict[str, Any]]:
    text = (RESULTS / study / "records.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_the_peers_grid() -> None:
    rows = records("peers")
    optimal = [row for row in rows if row["status"] == "optimal"]
    ample = [
        row
        for row in rows
        if "-v2-" not in row["instance"]
        and float(re.findall(r"mem([\d.]+)-", row["instance"])[0]) >= 1
    ]
    assert all(row in optimal for row in ample)
    for page in (ROOT / "README.md", RESULTS / "peers" / "README.md"):
        assert f"f {len(rows)} instances none" in prose(page)
        assert f"{len(optimal)} are proven" in prose(page) or (
            f"{len(optimal)} proven optimal, all {len(ample)} with one" in prose(page)
        )
    # V-Min at half the memory: points of bubble, from ... to ... .
    with (RESULTS / "peers" / "peers.csv").open() as file:
        peers = {(c["devices"], c["microbatches"]): c for c in csv.DictReader(file)}
    work_ns = 18_522_000 + 18_086_000 + 9_337_000
    gains = []
    for row in rows:
        size = re.fullmatch(r"zero-bubble-v2-P(\d+)-m(\d+)-mem0.5.*", row["instance"])
        if size and peers[size[1], size[2]]["V-Min"]:
            bubble = 100 * (1 - int(size[2]) * work_ns / row["value"])
            gains.append(float(peers[size[1], size[2]]["V-Min"]) - bubble)
    assert (round(min(gains)), round(max(gains))) == (3, 13)
    assert "3 to 13 points" in prose(ROOT / "README.md")


def test_the_known_cases() -> None:
    text = (RESULTS / "known-cases" / "known.json").read_text(encoding="utf-8")
    known = json.loads(text)
    rows = {row["instance_sha256"]: row for row in records("known-cases")}
    assert rows.keys() == known.keys()
    for sha256, case in known.items():
        best = case.get("optimum", case.get("best_known"))
        if "optimum" in case:
            assert rows[sha256]["value"] == rows[sha256]["lower_bound"] == best
        assert rows[sha256]["value"] <= best
    reached = f"best value known in {len(known)} of {len(known)}"
    assert reached in prose(ROOT / "README.md")
    comparison = prose(RESULTS / "known-cases" / "comparison.md")
    assert "Optima not proven within 60 s: none." in comparison
    said = "in less than 60 s, and no value is worse than what was known"
    assert said in prose(RESULTS / "known-cases" / "README.md")


def test_solver_quality() -> None:
    rows = [
        row
        for row in records("solver-quality")
        if "lat185" not in row["instance"] and "whole" not in row["instance"]
    ]
    two = [row for row in rows if re.search("(v|looped)2-", row["instance"])]
    one = [row for row in rows if row not in two]
    assert median(row["gap"] for row in one) == 0
    largest = max(row["gap"] for row in two)
    assert (
        "one stage per device: median gap 0 %; two stages per device at tight memory:"
        f" up to {100 * largest:.1f} %" in prose(ROOT / "README.md")
    )


def test_runtime_fidelity() -> None:
    with (RESULTS / "runtime-fidelity" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    errors = [
        abs(float(row["measured_s"]) / float(row["predicted_s"]) - 1) for row in rows
    ]
    assert max(errors) <= 0.03
    assert f"within 3 % on {len(rows)} schedules" in prose(ROOT / "README.md")


def test_refresh_of_all_trainings() -> None:
    folder = RESULTS / "pipefisher"
    runs = [json.loads(line) for line in (folder / "others.jsonl").open()]
    least: dict[tuple[object, ...], tuple[int, int]] = {}
    serial: dict[tuple[object, ...], str] = {}
    names = ("model", "schedule", "devices", "blocks", "gpu", "batch")
    for run in runs:
        training = tuple(run["key"][name] for name in names)
        if run["greedy_serial"]:
            serial[training] = run["status"]
        else:
            pair = run["interval"], max(run["greedy_intervals"])
            least[training] = min(pair, least.get(training, pair))
    fewer = sum(found < greedy for found, greedy in least.values())
    same = sum(found == greedy for found, greedy in least.values())
    assert fewer + same == len(least)  # never more steps
    impossible = list(serial.values()).count("infeasible")
    text = prose(folder / "README.md")
    assert f"The {len(least) + len(serial)} other trainings" in text
    assert f"of the {len(least)} where the rule hides all work, {fewer} take" in text
    assert f"fewer and {same} as many. In the other {len(serial)} the" in text
    assert f"in {impossible} it is proven" in text
    assert f"in {len(serial) - impossible} one does" in text
    open_ones = [run for run in runs if run["status"] == "feasible"]
    assert {run["key"]["devices"] for run in open_ones} == {16}
    assert len(open_ones) == 10
    assert "but for ten on 16 devices" in text
    longest = max(run["wall_seconds"] for run in runs)
    assert f"takes up to {longest:.0f} s where 20 s were given" in text


def test_what_was_solved_of_models_measured_on_a_gpu() -> None:
    rows = records("measured/solve")
    proven = sum(row["status"] == "optimal" for row in rows)
    said = prose(RESULTS / "measured" / "README.md")
    assert f"proved {proven} of {len(rows)} optimal" in said


def test_the_gpu() -> None:
    folder = RESULTS / "measured"
    table = run_path(str(folder / "study.py"))["table"]
    checks = json.loads((folder / "checks.json").read_text(encoding="utf-8"))
    text = (folder / "table.md").read_text(encoding="utf-8")
    assert table() == text
    # What the pages say of it.
    device, *_ = checks["device"].split(",")
    measuring = prose(ROOT / "docs" / "runtimes" / "measuring.md")
    assert checks["device"].replace(", Python", " and Python") in measuring
    assert device in prose(folder / "README.md")
    errors = [float(e) for e in re.findall(r"([+-][\d.]+) % \|$", text, re.M)]
    assert len(errors) == len(checks["peaks"]) == 3
    assert max(errors) == sorted(errors)[1] == 0  # as predicted, or less in one
    assert f"was as predicted, or {-min(errors):.1f} % less" in measuring
    times = {
        row["how"]: row["times"]["W"]["median"]
        for row in checks["timings"]
        if (row["hidden"], row["microbatch_size"]) == (4096, 1)
    }
    longer = times["waiting"] / times["queued"]
    assert f"took {longer:.1f} times as long" in measuring
    ratios, held = [], set()
    for path in folder.glob("*.profile.json"):
        _, middle, last = json.loads(path.read_text(encoding="utf-8"))["stages"]
        ratios.append(last["times"]["F"]["median"] / middle["times"]["F"]["median"])
        change = middle["input_gradient"] - middle["activation_until_input"]
        held.add(f"{1 + change / middle['activation']:.1f}")
    page = prose(folder / "README.md")
    assert f"takes {min(ratios):.1f} to {max(ratios):.1f} times as long" in page
    assert held == {"1.7"}
    assert "a middle stage holds 1.7 times" in page
