"""The run store: records whole or not there, claims of living drivers only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from schedopt.errors import FormatError
from schedopt.experiments.claims import this_process
from schedopt.experiments.processes import start_of
from schedopt.experiments.record import (
    FIELDS,
    RECORD_SCHEMA,
    BadRecordError,
    parse_record,
    record_text,
    run_key,
)
from schedopt.experiments.store import BUNDLE, RunStore, read_records, write_bundle

KEY = "a" * 64


def record(key: str = KEY, **fields: object) -> dict[str, Any]:
    known = {"schema": RECORD_SCHEMA, "key": key, "instance": "i", "method": "m"}
    return {**dict.fromkeys(FIELDS), **known, **fields}


def test_a_record_reads_back_as_it_was() -> None:
    written = record(value=1.5, trace=[[0.1, 3, None, "x"]], reason="é\n")
    assert parse_record(record_text(written), KEY) == written


def test_a_record_without_measures_is_written_as_before_there_were_any() -> None:
    assert "measures" not in json.loads(record_text(record()))
    told = record(measures={"interval": 3, "greedy_intervals": [4, 3]})
    assert parse_record(record_text(told), KEY) == told
    incomplete = json.loads(record_text(record()))
    del incomplete["value"]
    with pytest.raises(BadRecordError, match="missing"):
        parse_record(json.dumps(incomplete))


def test_a_bundle_from_then_is_written_again_byte_for_byte(tmp_path: Path) -> None:
    shipped = Path(__file__).parent.parent / "results" / "known-cases" / BUNDLE
    write_bundle(read_records(shipped), tmp_path / BUNDLE)
    assert (tmp_path / BUNDLE).read_bytes() == shipped.read_bytes()


def test_every_truncated_record_is_refused() -> None:
    text = record_text(record(value=3, reason="enough"))
    for length in range(len(text) - 1):  # without its line end it is still whole
        with pytest.raises(BadRecordError):
            parse_record(text[:length])


def test_every_changed_record_is_refused() -> None:
    text = record_text(record(value=3))
    for position, character in enumerate(text[:-1]):
        changed = (
            text[:position] + ("7" if character != "7" else "8") + text[position + 1 :]
        )
        with pytest.raises(BadRecordError):
            parse_record(changed)


def test_a_record_under_another_key_is_refused() -> None:
    with pytest.raises(BadRecordError, match="another run"):
        parse_record(record_text(record()), "b" * 64)


@pytest.mark.parametrize("wrong", [{"value": float("nan")}, {"colour": 1}])
def test_what_is_no_record_is_not_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"float|colour"):
        record_text(record() | wrong)


def test_a_key_depends_on_everything_given() -> None:
    base: tuple[Any, ...] = ("hash", "solve", {"seed": 0}, {"ortools": "9"})
    others = ("hush", "resolve", {"seed": 1}, {"ortools": "8"})
    keys = {run_key(*base)}
    for index, other in enumerate(others):
        keys.add(run_key(*base[:index], other, *base[index + 1 :]))
    assert len(keys) == 5
    assert run_key("h", "m", {"a": 1, "b": 2}, {}) == run_key(
        "h", "m", {"b": 2, "a": 1}, {}
    )


def test_a_crash_between_write_and_rename_leaves_no_record(tmp_path: Path) -> None:
    RunStore(tmp_path)
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "from schedopt.experiments.store import RunStore\n"
        "from schedopt.experiments.record import FIELDS, RECORD_SCHEMA\n"
        "store = RunStore(sys.argv[1])\n"
        "store.claims.take(sys.argv[2])\n"
        "Path.replace = lambda self, target: os._exit(9)\n"
        "store.write({**dict.fromkeys(FIELDS), 'schema': RECORD_SCHEMA,"
        " 'key': sys.argv[2]})\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path, KEY], check=False)
    assert done.returncode == 9
    (left,) = (tmp_path / "runs").iterdir()  # the temporary file, whole
    assert parse_record(left.read_text(), KEY)
    store = RunStore(tmp_path)
    assert store.record(KEY) is None
    assert read_records(tmp_path) == []
    assert list((tmp_path / "runs").iterdir()) == []
    assert store.claims.take(KEY)  # the dead driver's claim is no claim
    store.write(record())
    assert store.record(KEY) == record()


@pytest.mark.parametrize(
    "garbage",
    [b"", b"{}", b"\xff\xfe\x00", record_text(record())[:-20].encode(), b"[" * 100_000],
)
def test_garbage_is_set_aside(tmp_path: Path, garbage: bytes) -> None:
    store = RunStore(tmp_path)
    path = tmp_path / "runs" / f"{KEY}.json"
    for number in range(2):
        path.write_bytes(garbage)
        assert store.record(KEY) is None
        assert path.exists()  # reading alone changes nothing
        store.make_room(KEY)
        assert not path.exists()
        assert (tmp_path / "aside" / f"{KEY}.{number}.json").read_bytes() == garbage
    assert store.set_aside == 2


def test_a_whole_record_is_not_set_aside(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.write(record())
    store.make_room(KEY)
    assert store.record(KEY) == record()


def test_another_version_of_the_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"schema": "schedopt/runs/v9"}')
    with pytest.raises(FormatError, match=r"store\.json: is not schedopt/runs/v1"):
        RunStore(tmp_path)


def claim_of(folder: Path, **changes: object) -> None:
    owner = {**this_process()._asdict(), **changes}
    (folder / "claims" / f"{KEY}.json").write_text(json.dumps(owner))


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_living_process_keeps_its_claim(tmp_path: Path) -> None:
    store, other = RunStore(tmp_path), RunStore(tmp_path)
    assert store.claims.take(KEY)
    assert not other.claims.take(KEY)
    store.claims.give_back(KEY)
    assert other.claims.take(KEY)
    other.claims.give_back_all()
    assert list((tmp_path / "claims").iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "free"),
    [
        ({}, False),
        ({"start": "1"}, True),  # the number went to a later process
        ({"boot": "before"}, True),
        ({"host": "elsewhere"}, False),  # it cannot be known
        ({"host": "elsewhere", "pid": 1, "start": "0"}, False),
    ],
)
def test_claims_of_dead_processes_are_taken_over(
    tmp_path: Path, changes: dict[str, Any], free: bool
) -> None:
    store = RunStore(tmp_path)
    claim_of(tmp_path, **changes)
    assert store.claims.take(KEY) is free


def test_a_dead_process_holds_no_claim(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    claim_of(tmp_path, pid=dead_pid())
    assert store.claims.take(KEY)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x"}'])
def test_a_claim_cut_off_by_a_crash_is_no_claim(tmp_path: Path, text: str) -> None:
    store = RunStore(tmp_path)
    (tmp_path / "claims" / f"{KEY}.json").write_text(text)
    assert store.claims.take(KEY)


def test_a_process_is_told_by_its_start() -> None:
    assert start_of(os.getpid()) == start_of(os.getpid())
    assert start_of(dead_pid()) is None


def test_a_bundle_stands_for_its_records(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "a")
    records = [record(key * 64, instance=key) for key in "cab"]
    for one in records:
        store.write(one)
    bundle = tmp_path / "b" / "records.jsonl"
    bundle.parent.mkdir()
    write_bundle(records, bundle)
    assert read_records(bundle) == read_records(tmp_path / "a")
    assert read_records(tmp_path / "b") == read_records(tmp_path / "a")
    assert RunStore(tmp_path / "b").record("c" * 64) == records[0]
    first = bundle.read_bytes()
    write_bundle(reversed(records), bundle)
    assert bundle.read_bytes() == first


def test_a_record_in_the_folder_is_newer_than_the_bundle(tmp_path: Path) -> None:
    write_bundle([record(value=1)], tmp_path / "records.jsonl")
    RunStore(tmp_path).write(record(value=2))
    assert [one["value"] for one in read_records(tmp_path)] == [2]


def test_what_is_no_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="neither a run store nor"):
        read_records(tmp_path / "nothing")
