"""The documentation: links resolve, commands exist, examples give what they show."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import networkx as nx
import pytest
import typer

import schedopt
from schedopt.cli.commands import app
from schedopt.experiments import load_spec
from schedopt.experiments.spec import instances_of
from schedopt.export.formats import FORMATS
from schedopt.opgraph import StreamKind
from schedopt.ops import OpKind
from tests.cli_helpers import Run, runner

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        README,
        ROOT / "CHANGELOG.md",
        ROOT / "instances" / "README.md",
        ROOT / "results" / "README.md",
        *DOCS.rglob("*.md"),
    ]
)
WORDS = """
    device, stream, stage, microbatch, op, buffer, order, schedule, placement,
    makespan, period, cycle, bubble, gap, instance, choice, literal, alternative, tick,
    grain, lag, builder, incumbent, precedence, form, cap, member, worker,
    projection, lane, head, tail, replay, dispatch, objective, value, solution, op
    graph, device span, bubble ratio, lower bound, hand-made schedule, memory edge,
    peak memory, static memory
"""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[tuple[str, str]]:
    """The page's code blocks in these languages, each with its language."""
    return re.findall(
        rf"^```({'|'.join(languages)})\n(.*?)^```$",
        page.read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )


def prose(page: Path) -> str:
    """The page without its code blocks."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


# -- links ---------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """What headings are called in links, as GitHub does."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file) if file else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


def test_the_index_names_every_page() -> None:
    index = DOCS / "README.md"
    named = set(re.findall(r"\]\(([^)#]+)\)", index.read_text(encoding="utf-8")))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert pages - named == {"README.md"}


def test_decisions_are_numbered_without_gaps() -> None:
    names = sorted(page.name for page in (DOCS / "decisions").glob("*.md"))
    assert [name[:4] for name in names] == [
        f"{number:04}" for number in range(1, len(names) + 1)
    ]
    for name in names:
        title = (DOCS / "decisions" / name).read_text(encoding="utf-8").splitlines()[0]
        assert title.startswith(f"# {int(name[:4])}. ")


def test_the_decision_on_layers_shows_the_contract() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        contract = tomllib.load(file)["tool"]["importlinter"]["contracts"][0]
    page = (DOCS / "decisions" / "0006-layers.md").read_text(encoding="utf-8")
    assert "```\n" + "\n".join(contract["layers"]) + "\n```" in page


# -- commands ------------------------------------------------------------------


def shown_commands(page: Path) -> Iterator[list[str]]:
    """Calls of schedopt in code blocks and in running text, as their words."""
    lines = [
        line.removeprefix("$ ")
        for language, block in blocks(page, "sh", "console")
        for line in block.replace("\\\n", " ").splitlines()
        if language == "sh" or line.startswith("$ ")
    ]
    spans = re.findall(r"`(schedopt [a-z-][^`]*)`", prose(page))
    for line in [*lines, *spans]:
        words: list[str] = []
        for word in [*split(line.replace("\n", " ")), "&&"]:
            if word not in {"&&", "|", ";"}:
                words.append(word)
                continue
            if words[:1] == ["schedopt"]:
                yield words[1:]
            words = []


def split(line: str) -> list[str]:
    """Words and operators of a shell command."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    return list(lexer)


def complaint(words: list[str], commands: dict[str, click.Command]) -> str | None:
    if words[0].startswith("-"):
        return None if words[0] in {"--version", "--help"} else words[0]
    if words[0] not in commands:
        return words[0]
    known = {
        option
        for parameter in commands[words[0]].params
        for option in [*parameter.opts, *parameter.secondary_opts]
    }
    for word in words[1:]:
        if word.startswith("-") and word.split("=")[0] not in {*known, "--help"}:
            return f"{words[0]} {word}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist(page: Path) -> None:
    group: Any = typer.main.get_command(app)
    wrong = [complaint(words, group.commands) for words in shown_commands(page)]
    assert [text for text in wrong if text is not None] == []


def test_the_check_of_commands_can_fail() -> None:
    group: Any = typer.main.get_command(app)
    assert complaint(["sovle", "x.yaml"], group.commands) == "sovle"
    assert complaint(["solve", "--fast"], group.commands) == "solve --fast"
    assert list(shown_commands(README))


@pytest.mark.parametrize("page", [README, DOCS / "experiments.md"], ids=name_of)
def test_instances_that_commands_name_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = re.findall(r"\b(?:instances|results)/[\w./*-]+\.\w+", text)
    assert [path for path in paths if not list(ROOT.glob(path))] == []


# -- words ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    [*" ".join(WORDS.split()).split(", "), *(f"`{kind.value}`" for kind in OpKind)],
)
def test_the_glossary_has_every_word(word: str) -> None:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", text, re.MULTILINE)
    assert rows.count(word) == 1


def test_the_glossary_has_every_stream() -> None:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| stream \| (.*) \|$", text, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == {kind.value for kind in StreamKind}


# -- examples ------------------------------------------------------------------


def modules_with_examples() -> list[str]:
    names = []
    for file in sorted((ROOT / "schedopt").rglob("*.py")):
        if re.search(r"^\s*>>> ", file.read_text(encoding="utf-8"), re.MULTILINE):
            parts = file.relative_to(ROOT).with_suffix("").parts
            names.append(".".join(parts).removesuffix(".__init__"))
    return names


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    module: ModuleType = importlib.import_module(name)
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_examples_are_in_these_modules_at_least() -> None:
    assert {"schedopt", "schedopt.ops"} <= set(modules_with_examples())


def test_the_readmes_instance_can_be_solved(tmp_path: Path) -> None:
    ((_, shown),) = blocks(README, "yaml")
    file = tmp_path / "mine.yaml"
    file.write_text(shown)
    solution = schedopt.solve(
        schedopt.load_instance(file), schedopt.SolveParameters(time_limit_s=5)
    )
    assert solution.schedule is not None


@pytest.mark.parametrize(
    ("page", "name", "methods"),
    [
        (README, "first look", ("solve", "1f1b", "zb-h1")),
        (DOCS / "kfac.md", "refreshes", ("refresh",)),
    ],
    ids=["README.md", "kfac.md"],
)
def test_the_batches_shown_can_be_planned(
    page: Path, name: str, methods: tuple[str, ...], tmp_path: Path
) -> None:
    ((_, shown),) = blocks(page, "toml")
    file = tmp_path / "spec.toml"
    file.write_text(shown.replace('"instances/', f'"{ROOT}/instances/'))
    spec = load_spec(file)
    assert (spec.name, spec.methods) == (name, methods)
    assert instances_of(spec)


def test_the_batch_with_every_field_is_a_spec(tmp_path: Path) -> None:
    ((_, shown),) = blocks(DOCS / "experiments.md", "toml")
    file = tmp_path / "spec.toml"
    file.write_text(shown)
    assert len(load_spec(file).settings["refresh"]) == 4


def test_the_readme_has_every_export_format_and_how_it_was_tried() -> None:
    text = README.read_text(encoding="utf-8")
    tried = {
        name: row[1]
        for row in re.findall(r"^\| (`.*?) \| .* \| (\w+) \|$", text, re.MULTILINE)
        for name in re.findall(r"`([\w-]+)`", row[0])
    }
    assert tried == {name: entry.evidence.value for name, entry in FORMATS.items()}


def test_the_readme_shows_the_example_of_the_package() -> None:
    ((_, shown),) = blocks(README, "pycon")
    assert schedopt.__doc__ is not None
    assert shown.strip() in schedopt.__doc__


def test_the_page_on_builders_runs() -> None:
    names: dict[str, Any] = {}
    runs = 0
    for language, block in blocks(DOCS / "adding-a-builder.md", "python", "pycon"):
        if language == "python":
            exec(compile(block, "adding-a-builder.md", "exec"), names)
            continue
        examples = doctest.DocTestParser().get_doctest(block, names, "page", None, 0)
        outcome = doctest.DocTestRunner().run(examples, clear_globs=False)
        assert outcome.failed == 0
        runs += outcome.attempted
    assert runs > 0


def test_a_selection_of_overlaps_may_be_cyclic() -> None:
    """The example of docs/problem.md."""
    document = {
        "schema": "schedopt/instance/v1",
        "name": "overlaps",
        "microbatches": 2,
        "devices": 2,
        "backward": "whole",
        "stages": {"count": 2, "forward": 1, "backward": 2, "overlap": 2},
    }
    instance = schedopt.instance_from_document(document, "docs/problem.md")
    graph = schedopt.build_graph(instance)
    joint = {
        "1F1+1B0:overlap",
        "0F1+0B0:overlap",
        "0F0:alone",
        "1F0:alone",
        "0B1:whole",
        "1B1:whole",
    }
    for choice in graph.choices:
        assert len(joint.intersection(choice.literals)) == 1
    selected = graph.select(joint)
    named = {"0OVERLAP_F_B1:0B0", "1OVERLAP_F_B1:1B0"}
    page = (DOCS / "problem.md").read_text(encoding="utf-8")
    assert all(name in page for name in named)
    cycle = {str(before) for before, _ in nx.find_cycle(selected.digraph)}
    assert cycle == named


def test_the_readme_shows_what_solving_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quickstart's lines that do not depend on the machine."""
    monkeypatch.chdir(ROOT)
    run: Run = runner(capsys)
    ran = run("solve", "instances/quickstart/quickstart.yaml", "--no-gantt")
    assert ran.code == 0
    shown = README.read_text(encoding="utf-8").splitlines()
    for line in ran.out.splitlines():
        if not line.startswith(("status", "best hand-made")):
            assert line in shown
