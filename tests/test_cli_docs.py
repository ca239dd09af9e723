"""docs/command-line.md: its examples are run, and print what the page says."""

from __future__ import annotations

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli_helpers import Run, runner

PAGE = Path(__file__).parent.parent / "docs" / "command-line.md"
# What these find may become better, and takes another time; the rest is the same.
SEARCHES = ("solve", "compare", "run")
# What these measure is another machine's; they need torch, which is an extra.
MEASURED = ("execute",)


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    monkeypatch.chdir(tmp_path)
    return runner(capsys)


def fenced(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def examples() -> list[tuple[str, list[str]]]:
    """Each command of the page with the lines that follow it."""
    found: list[tuple[str, list[str]]] = []
    for block in fenced("console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            else:
                found[-1][1].append(line)
    return found


def labels(lines: list[str]) -> set[str]:
    """The first words of labelled lines and rows; not the chart, which may differ."""
    chart = re.compile(r"device \d+ \S|Blocks:")
    return {
        re.split(r"  | \(", line)[0]
        for line in lines
        if line[:1].isalpha() and not chart.match(line)
    }


def write_files() -> None:
    small, batch = fenced("yaml")
    Path("small.yaml").write_text(small)
    tight = small.replace("memory_limit: 30", "memory_limit: 8")
    assert tight != small
    Path("tight.yaml").write_text(tight)
    Path("batch.yaml").write_text(batch)
    (order,) = fenced("csv")
    Path("order.csv").write_text(order)
    (log,) = fenced("log")
    Path("zb.log").write_text(log)


def write_wrong_schedule() -> None:
    document = json.loads(Path("small.json").read_text())
    document["makespan"] -= 1
    Path("wrong.json").write_text(json.dumps(document))


def test_every_command_has_an_example() -> None:
    commands = {command.split()[1] for command, _ in examples()}
    text = PAGE.read_text(encoding="utf-8")
    headings = set(re.findall(r"^## ([a-z]+)$", text, re.MULTILINE))
    # Too long to show, and another on every machine.
    assert headings - commands == {"schema", "profile"}
    assert commands <= headings


def test_the_examples_print_what_the_page_says(run: Run) -> None:
    write_files()
    for command, shown in examples():
        program, *arguments = shlex.split(command)
        assert program == "schedopt"
        if arguments[0] in MEASURED and find_spec("torch") is None:
            continue
        if "wrong.json" in arguments:
            write_wrong_schedule()
        ran = run(*arguments)
        complaints = [x for x in ran.err.splitlines() if x.startswith("schedopt: ")]
        lines = [line.rstrip() for line in [*ran.out.splitlines(), *complaints]]
        assert (ran.code == 0) == (not complaints), command
        if arguments[0] == "bound":  # may come to know more of them
            assert "best" in labels(lines) & labels(shown)
        elif arguments[0] in (*SEARCHES, *MEASURED):
            assert labels(lines) == labels(shown), command
        else:
            shown_lines = [line.rstrip() for line in shown]
            assert lines == shown_lines, command
