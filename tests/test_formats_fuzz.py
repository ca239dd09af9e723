"""Whatever a file holds, reading it gives an instance or one line, and nothing else."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from test_formats_instance import EQUAL, FULL, SMALL, read
from test_kfac_format import TRAINING

from schedopt.errors import FormatError, InstanceError
from schedopt.formats import (
    Limits,
    instance_document,
    instance_from_document,
    instance_schema,
    instance_sha256,
    load_instance,
    load_schedule,
    schedule_document,
    schedule_from_document,
)

EXAMPLES = [SMALL, EQUAL, FULL, TRAINING]
UNSOLVED = schedule_document(
    read(SMALL),
    None,
    method="none",
    status="unknown",
    objective="makespan",
    value_ticks=None,
    lower_bound_ticks=3,
    wall_seconds=None,
    seed=None,
    versions={},
)
ROW = {"op": "0F0", "kind": "F", "stage": 0, "microbatch": 0, "device": 0}
SOLVED = UNSOLVED | {
    "status": "feasible",
    "value": 10,
    "ops": [ROW | {"streams": ["compute"], "start": 0, "end": 10}],
}

numbers = st.one_of(
    st.integers(),
    st.integers(-3, 20),
    st.floats(),
    st.sampled_from([10**400, -(10**30), 1e308, 5e-324, 2**63, 1e15, 1e-9]),
)
scalars = st.one_of(
    st.none(), st.booleans(), numbers, st.text(max_size=8), st.characters()
)
words = st.sampled_from(
    sorted(
        {*SMALL, *EQUAL, *FULL, *FULL["stages"][0], "from", "split", "v", "F", "0F0"}
        | {*TRAINING, *TRAINING["kfac"], *TRAINING["stages"][0]["modules"][0]}
        | {"whole", "everyone", "ffn.0", "ffn.1"}
    )
)
values = st.recursive(
    st.one_of(scalars, words),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(words, st.text(max_size=4)), inner, max_size=4),
    ),
    max_leaves=12,
)
# Values that often fit, so that rules between fields are reached too.
small = st.one_of(st.integers(0, 5), st.floats(0.5, 2), words)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all fields and entries of a document."""
    found = [path] if path else []
    if isinstance(document, dict):
        for key, value in document.items():
            found += places(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            found += places(value, (*path, index))
    return found


@st.composite
def mutants(draw: st.DrawFn, examples: list[dict[str, Any]]) -> dict[str, Any]:
    """A valid document with one to three fields replaced, removed or added."""
    document = copy.deepcopy(draw(st.sampled_from(examples)))
    for _ in range(draw(st.integers(1, 3))):
        found = places(document)
        if not found:
            break
        *parents, last = draw(st.sampled_from(found))
        node: Any = document
        for part in parents:
            node = node[part]
        match draw(st.sampled_from(["replace", "remove", "add", "copy"])):
            case "replace":
                node[last] = draw(st.one_of(values, small))
            case "remove":
                del node[last]
            case "copy" if isinstance(node, list):
                node.append(copy.deepcopy(node[last]))
            case _ if isinstance(node, dict):
                node[draw(st.one_of(words, st.text(max_size=5)))] = draw(values)
    return document


def one_line(error: Exception) -> None:
    text = str(error)
    assert text.splitlines() == [text]
    assert text.isprintable()
    assert len(text) < 1000


def check_instance(document: object) -> None:
    try:
        instance = instance_from_document(document, "where", Limits(max_ops=10_000))
    except (InstanceError, FormatError) as error:
        one_line(error)
        return
    canonical = json.loads(json.dumps(instance_document(instance)))
    again = instance_from_document(canonical, "again", Limits(max_ops=10_000))
    assert again == instance
    assert instance_sha256(again) == instance_sha256(instance)
    jsonschema.validate(document, SCHEMA)


SCHEMA = instance_schema()


@given(document=values)
@settings(max_examples=300, deadline=None)
def test_any_document(document: object) -> None:
    check_instance(document)
    with pytest.raises(FormatError) as caught:
        schedule_from_document(document, "where")
    one_line(caught.value)


@given(document=mutants(EXAMPLES))
@settings(max_examples=500, deadline=None)
def test_mutated_instance(document: dict[str, Any]) -> None:
    check_instance(document)


@given(document=mutants([UNSOLVED, SOLVED]))
@settings(max_examples=400, deadline=None)
def test_mutated_schedule(document: dict[str, Any]) -> None:
    try:
        schedule_from_document(document, "where", Limits(max_ops=10_000))
    except (InstanceError, FormatError) as error:
        one_line(error)


def check_bytes(data: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        for load in (load_instance, load_schedule):
            try:
                load(path)
            except (InstanceError, FormatError) as error:
                one_line(error)


names = st.sampled_from(["f.json", "f.yaml", "f"])
texts = [json.dumps(SMALL).encode(), yaml.safe_dump(FULL).encode()]


@given(data=st.binary(max_size=200), name=names)
@settings(max_examples=200, deadline=None)
def test_any_bytes(data: bytes, name: str) -> None:
    check_bytes(data, name)


@given(
    text=st.text(alphabet="{}[]:,-*&!|>%@`#?\"'\\ \n\tab01.eE~<=_xUu", max_size=40),
    name=names,
)
@settings(max_examples=400, deadline=None)
def test_any_punctuation(text: str, name: str) -> None:
    check_bytes(text.encode(), name)


@given(
    base=st.sampled_from(texts),
    at=st.integers(0, 400),
    cut=st.integers(0, 5),
    data=st.binary(max_size=5),
    name=names,
)
@settings(max_examples=300, deadline=None)
def test_damaged_file(base: bytes, at: int, cut: int, data: bytes, name: str) -> None:
    check_bytes(base[:at] + data + base[at + cut :], name)


def test_the_schedules_that_are_mutated_are_valid() -> None:
    for document in (UNSOLVED, SOLVED):
        assert schedule_from_document(document, "where").instance == read(SMALL)
