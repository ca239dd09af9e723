"""The best-known store: what it refuses, what replaces what, its file, its command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schedopt.bounds import quick_bounds
from schedopt.build import build_graph
from schedopt.cli.order_file import load_order
from schedopt.errors import FormatError
from schedopt.experiments.best_known import (
    BestKnown,
    ContradictionError,
    Entry,
    Finder,
    KnownBound,
    KnownValue,
    Offer,
    Outcome,
    Problem,
    RefusedScheduleError,
    load_best_known,
    load_if_present,
    offer_from,
    record,
    write_best_known,
)
from schedopt.experiments.best_known.rules import (
    bound_is_better,
    require_bound_not_above_value,
    require_same_units,
    require_value_not_below_bound,
    value_is_better,
)
from schedopt.formats import (
    Limits,
    ScheduleFile,
    instance_from_document,
    instance_sha256,
    load_instance,
    load_schedule,
    schedule_document,
    schedule_from_document,
)
from schedopt.instance import FINITE_OBJECTIVES, Instance, Objective
from schedopt.opgraph import Units
from schedopt.schedule import Schedule
from schedopt.simulate import simulate, with_memory_edges
from tests.cli_helpers import ORDER, TINY, Run, refused, runner

ROOT = Path(__file__).resolve().parent.parent
STORE = ROOT / "results" / "best-known.json"
QUICKSTART = ROOT / "instances" / "quickstart" / "quickstart.yaml"
US = 10**6  # ticks


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(capsys)


# -- what a schedule file offers -------------------------------------------------------


TINY_INSTANCE = instance_from_document(TINY, "tiny")


def zb_h1(instance: Instance = TINY_INSTANCE) -> Schedule:
    """ZB-H1 of the tiny instance; its makespan is 114 us."""
    Path("order.csv").write_text(ORDER)
    graph = build_graph(instance)
    return simulate(graph, load_order(Path("order.csv"), graph, Limits()))


def waiting(schedule: Schedule, at_us: int, by_us: int) -> Schedule:
    """The schedule with everything from a moment on later than it need be."""
    start = {
        op: time + by_us * US if time >= at_us * US else time
        for op, time in schedule.start.items()
    }
    return Schedule(schedule.graph, start)


def document_of(
    schedule: Schedule,
    instance: Instance = TINY_INSTANCE,
    *,
    bound_us: int | None = None,
    objective: Objective = Objective.MAKESPAN,
    **fields: object,
) -> dict[str, Any]:
    """A schedule file's document, with some fields as they should not be."""
    value = schedule.value(objective)
    bound = None if bound_us is None else bound_us * US
    document = schedule_document(
        instance,
        schedule,
        method="by hand",
        status="optimal" if bound == value else "feasible",
        objective=objective,
        value_ticks=value,
        lower_bound_ticks=bound,
        wall_seconds=None,
        seed=None,
        versions={"python": "3", "ortools": "9", "schedopt": "0"},
        memory_edges=with_memory_edges(schedule).memory_edges,
        graph=schedule.graph,
    )
    return {**document, **fields}


def read(document: object) -> ScheduleFile:
    return schedule_from_document(document, "s.json")


def test_a_schedule_that_the_verifier_passes_is_offered() -> None:
    offer = offer_from(read(document_of(zb_h1(), bound_us=107)), "s.json")
    versions = {"schedopt": "0", "ortools": "9"}
    assert offer == Offer(
        where="s.json",
        problem=Problem(
            name="tiny",
            sha256=instance_sha256(TINY_INSTANCE),
            objective=Objective.MAKESPAN,
            units=Units("us", "MiB", US, US),
        ),
        value=KnownValue(
            ticks=114 * US,
            found_by=Finder("by hand", versions),
            bubble_ratio=1 - 192 / 228,
            peak_memory_grains=(20 * US, 15 * US),
        ),
        bound=KnownBound(ticks=107 * US, claimed_by=Finder("", versions)),
    )


def test_a_schedule_that_the_verifier_refuses_is_not() -> None:
    schedule = zb_h1()
    early = {op: max(time - US, 0) for op, time in schedule.start.items()}
    document = document_of(Schedule(schedule.graph, early))
    with pytest.raises(RefusedScheduleError, match=r"s\.json: .* verifier refuses"):
        offer_from(read(document), "s.json")


@pytest.mark.parametrize("value", [113, 115])
def test_a_claimed_value_is_not_believed(value: int) -> None:
    document = document_of(zb_h1(), value=value)
    with pytest.raises(RefusedScheduleError, match=f"value is {value}, should be 114"):
        offer_from(read(document), "s.json")


def test_the_value_is_that_of_the_replay() -> None:
    document = document_of(waiting(zb_h1(), at_us=50, by_us=3))
    assert document["value"] == 117
    offer = offer_from(read(document), "s.json")
    assert offer.value.ticks == 114 * US
    assert offer.value.bubble_ratio == 1 - 192 / 228


def test_the_value_is_the_objectives() -> None:
    """The last device is busy without a break from 11 us on."""
    stages = [
        {"forward": 10, "backward_input": 9, "backward_weight": weight}
        for weight in (5, 30)
    ]
    instance = instance_from_document({**TINY, "stages": stages}, "tiny")
    values = {}
    for objective in FINITE_OBJECTIVES:
        document = document_of(zb_h1(instance), instance, objective=objective)
        offer = offer_from(read(document), "s.json")
        assert offer.problem.key == (instance_sha256(instance), objective)
        values[objective] = offer.value.ticks
    work = 4 * (10 + 9 + 30) * US
    assert values == {
        Objective.MAKESPAN: work + 11 * US,
        Objective.DEVICE_SPAN: work,
    }


def test_a_file_without_a_schedule_offers_nothing() -> None:
    document = schedule_document(
        TINY_INSTANCE,
        None,
        method="",
        status="unknown",
        objective="makespan",
        value_ticks=None,
        lower_bound_ticks=107 * US,
        wall_seconds=None,
        seed=None,
        versions={},
    )
    with pytest.raises(RefusedScheduleError, match="status = unknown: there is no"):
        offer_from(read(document), "s.json")


def test_the_bound_is_claimed_by_who_had_it_first() -> None:
    trace = [
        {"seconds": 0, "value": None, "bound": 96, "member": "load"},
        {"seconds": 1, "value": 114, "bound": 107, "member": "memory"},
        {"seconds": 2, "value": 114, "bound": 107, "member": "search"},
    ]
    document = document_of(zb_h1(), bound_us=107, trace=trace)
    offer = offer_from(read(document), "s.json")
    assert offer.bound is not None
    assert offer.bound.claimed_by.method == "memory"


def test_a_bound_that_nobody_moved_is_nobodys() -> None:
    trace = [{"seconds": 0, "value": None, "bound": 96, "member": "load"}]
    document = document_of(zb_h1(), bound_us=107, trace=trace)
    offer = offer_from(read(document), "s.json")
    assert offer.bound is not None
    assert offer.bound.claimed_by.method == ""


# -- the rules -------------------------------------------------------------------------

PROBLEM = Problem(
    name="one",
    sha256="0" * 64,
    objective=Objective.MAKESPAN,
    units=Units("us", "MiB", US, US),
)


def value_of(ticks: int, method: str = "old") -> KnownValue:
    return KnownValue(
        ticks=ticks,
        found_by=Finder(method, {"schedopt": "0.1.0"}),
        bubble_ratio=0.25,
        peak_memory_grains=(2_500_000, 7),
    )


def bound_of(ticks: int | None, method: str = "old") -> KnownBound | None:
    if ticks is None:
        return None
    return KnownBound(ticks=ticks, claimed_by=Finder(method, {"schedopt": "0.1.0"}))


def known(value: int, bound: int | None) -> Entry:
    return Entry(problem=PROBLEM, value=value_of(value), bound=bound_of(bound))


def offered(value: int, bound: int | None = None) -> Offer:
    return Offer(
        where="s.json",
        problem=replace(PROBLEM, name="another name"),
        value=value_of(value, "new"),
        bound=bound_of(bound, "new"),
    )


def test_a_value_may_be_at_the_recorded_bound() -> None:
    require_value_not_below_bound(offered(90), known(100, 90))
    require_value_not_below_bound(offered(80), known(100, None))
    require_value_not_below_bound(offered(80), None)


def test_a_value_below_the_recorded_bound_is_a_bug() -> None:
    with pytest.raises(ContradictionError) as caught:
        require_value_not_below_bound(offered(89_999_999), known(10**8, 90_000_000))
    assert str(caught.value) == (
        "s.json: NOT RECORDED, A BUG: another name (makespan): its value 89.999999 us,"
        " found by new (schedopt 0.1.0), is below the recorded lower bound 90 us,"
        " claimed by old (schedopt 0.1.0); one of them is wrong: please report it with"
        " this file"
    )


def test_a_bound_may_be_at_the_recorded_value() -> None:
    require_bound_not_above_value(offered(110, 100), known(100, 90))
    require_bound_not_above_value(offered(110, None), known(100, 90))
    require_bound_not_above_value(offered(110, 110), None)


@pytest.mark.parametrize(
    ("value", "bound", "before", "words"),
    [
        (110, 101, known(100, 90), "above the recorded value 0.0001 us, found by old"),
        (95, 98, known(100, 90), "above the value of its own replayed schedule"),
        (95, 98, None, "above the value of its own replayed schedule"),
    ],
)
def test_a_bound_above_a_known_value_is_a_bug(
    value: int, bound: int, before: Entry | None, words: str
) -> None:
    with pytest.raises(ContradictionError, match=words):
        require_bound_not_above_value(offered(value, bound), before)


def test_the_units_of_an_instance_stay() -> None:
    require_same_units(offered(100), known(100, 90))
    require_same_units(offered(100), None)


def test_other_units_of_the_same_instance_are_refused() -> None:
    changed = replace(PROBLEM, units=Units("ms", "MiB", US, US))
    with pytest.raises(FormatError, match="has other units"):
        require_same_units(offered(100), replace(known(100, 90), problem=changed))


def test_a_smaller_value_is_better() -> None:
    assert value_is_better(offered(99), known(100, 90))


@pytest.mark.parametrize("value", [100, 101])
def test_an_equal_or_larger_value_is_not(value: int) -> None:
    assert not value_is_better(offered(value), known(100, 90))


@pytest.mark.parametrize("before", [90, None])
def test_a_larger_bound_is_better_and_any_than_none(before: int | None) -> None:
    assert bound_is_better(offered(100, 91), known(100, before))


@pytest.mark.parametrize(
    ("bound", "before"), [(90, 90), (89, 90), (None, 90), (None, None)]
)
def test_an_equal_or_smaller_bound_is_not(
    bound: int | None, before: int | None
) -> None:
    assert not bound_is_better(offered(100, bound), known(100, before))


# -- recording -------------------------------------------------------------------------


def store_of(*entries: Entry) -> BestKnown:
    return BestKnown({entry.problem.key: entry for entry in entries})


def test_the_first_offer_is_recorded_whole() -> None:
    done = record(BestKnown(), offered(100, 90))
    assert (done.value, done.bound) == (Outcome.NEW, Outcome.NEW)
    assert done.before is None
    assert done.entry.value.ticks == 100
    assert done.store.entries == (done.entry,)


@pytest.mark.parametrize(
    ("offer", "value", "bound", "outcomes"),
    [
        (offered(99, 89), ("new", 99), ("old", 90), (Outcome.BETTER, Outcome.KEPT)),
        (offered(101, 91), ("old", 100), ("new", 91), (Outcome.KEPT, Outcome.BETTER)),
        (offered(99, 91), ("new", 99), ("new", 91), (Outcome.BETTER, Outcome.BETTER)),
        (offered(100, 90), ("old", 100), ("old", 90), (Outcome.KEPT, Outcome.KEPT)),
        (offered(99), ("new", 99), ("old", 90), (Outcome.BETTER, Outcome.NONE)),
    ],
)
def test_value_and_bound_are_replaced_independently(
    offer: Offer,
    value: tuple[str, int],
    bound: tuple[str, int],
    outcomes: tuple[Outcome, Outcome],
) -> None:
    done = record(store_of(known(100, 90)), offer)
    assert (done.value, done.bound) == outcomes
    entry = done.store.get(offer.problem)
    assert entry is not None
    assert entry.bound is not None
    assert (entry.value.found_by.method, entry.value.ticks) == value
    assert (entry.bound.claimed_by.method, entry.bound.ticks) == bound
    assert entry.problem.name == "one"  # the first name stays


def test_a_bound_where_there_was_none_is_new() -> None:
    done = record(store_of(known(100, None)), offered(100, 90))
    assert (done.value, done.bound) == (Outcome.KEPT, Outcome.NEW)


def test_what_contradicts_changes_nothing() -> None:
    store = store_of(known(100, 90))
    for offer in (offered(89), offered(110, 101)):
        with pytest.raises(ContradictionError):
            record(store, offer)
    assert store == store_of(known(100, 90))


def test_objectives_and_instances_are_apart() -> None:
    offer = offered(50, 40)  # would contradict the other entry's bound
    for changes in ({"objective": Objective.DEVICE_SPAN}, {"sha256": "1" * 64}):
        problem = replace(PROBLEM, **changes)
        done = record(store_of(known(100, 90)), replace(offer, problem=problem))
        assert len(done.store.entries) == 2


# -- the file --------------------------------------------------------------------------


def several() -> list[Entry]:
    return [
        replace(
            known(100 + index, bound),
            problem=replace(PROBLEM, name=name, sha256=digit * 64, objective=objective),
        )
        for index, (name, digit, objective, bound) in enumerate(
            [
                ("b", "1", Objective.MAKESPAN, 100),
                ("a", "2", Objective.MAKESPAN, None),
                ("b", "0", Objective.MAKESPAN, 101),
                ("b", "1", Objective.DEVICE_SPAN, 90),
            ]
        )
    ]


def test_a_store_reads_back_to_an_equal_one() -> None:
    write_best_known("x.json", store_of(*several()))
    assert load_best_known("x.json") == store_of(*several())


def test_equal_stores_have_equal_bytes_sorted_by_name_hash_and_objective() -> None:
    write_best_known("x.json", store_of(*several()))
    write_best_known("y.json", store_of(*reversed(several())))
    text = Path("x.json").read_text()
    assert text == Path("y.json").read_text()
    assert len(text.splitlines()) == 3 + len(several()) + 2  # one per entry
    entries = json.loads(text)["entries"]
    assert [(e["name"], e["sha256"][0], e["objective"]) for e in entries] == [
        ("a", "2", "makespan"),
        ("b", "0", "makespan"),
        ("b", "1", "device-span"),
        ("b", "1", "makespan"),
    ]


def test_no_file_is_an_empty_store_where_one_may_come() -> None:
    assert load_if_present("nosuch.json") == BestKnown()
    with pytest.raises(FormatError, match=r"nosuch\.json: there is no such file"):
        load_best_known("nosuch.json")


def entry_fields() -> dict[str, Any]:
    write_best_known("x.json", store_of(known(100 * US, 90 * US)))
    (entry,) = json.loads(Path("x.json").read_text())["entries"]
    assert isinstance(entry, dict)
    return entry


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lower_bound": 101}, "lower_bound = 101: must be at most value, 100"),
        ({"value": 90.0000001}, "value = 90.0000001: must be a multiple"),
        ({"peak_memory": [1e-9]}, r"peak_memory\[0\] = 1e-09: must be a multiple"),
        ({"lower_bound": None}, "bound_claimed_by = .* if and only if lower_bound"),
        ({"bound_claimed_by": None}, "bound_claimed_by = .* if and only if"),
        ({"valeu": 1}, "valeu = 1: is .* did you mean value"),
        ({"sha256": "abc"}, "sha256 = .*: must be 64 digits"),
        ({"time_unit": "h"}, "time_unit = .* must be s, ms, us or ns"),
        (
            {"objective": "fun"},
            "objective = .* makespan, device-span, period or refresh",
        ),
    ],
)
def test_a_broken_entry_is_refused(changes: Mapping[str, object], words: str) -> None:
    entry = {**entry_fields(), **changes}
    document = {"schema": "schedopt/best-known/v1", "entries": [entry]}
    Path("x.json").write_text(json.dumps(document))
    with pytest.raises(FormatError, match=rf"^x\.json: entries\[0\]\.{words}"):
        load_best_known("x.json")


def test_an_entry_that_stands_twice_is_refused() -> None:
    entries = [entry_fields(), entry_fields()]
    document = {"schema": "schedopt/best-known/v1", "entries": entries}
    Path("x.json").write_text(json.dumps(document))
    with pytest.raises(FormatError, match=r"entries\[1\]\.sha256 .* entries\[0\]"):
        load_best_known("x.json")


def test_another_format_is_refused() -> None:
    Path("x.json").write_text('{"schema": "schedopt/best-known/v2", "entries": []}')
    with pytest.raises(FormatError, match="expected schedopt/best-known/v1"):
        load_best_known("x.json")


# -- the command -----------------------------------------------------------------------


def write_schedule(name: str, schedule: Schedule, **fields: Any) -> None:
    Path(name).write_text(json.dumps(document_of(schedule, **fields)))


def changed_store(name: str, **fields: object) -> bytes:
    """Change the only entry of a store; the file's bytes."""
    document = json.loads(Path(name).read_text())
    document["entries"][0].update(fields)
    Path(name).write_text(json.dumps(document))
    return Path(name).read_bytes()


def test_a_solved_instance_is_recorded(run: Run) -> None:
    solved = ("solve", QUICKSTART, "-o", "s.json", "--time-limit", 20, "--no-gantt")
    assert run(*solved).code == 0
    file = load_schedule("s.json")
    assert file.lower_bound is not None
    assert 0 < file.lower_bound <= 371 <= (file.value or 0)
    ran = run("record", "s.json", "--store", "best.json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == (
        f"s.json: quickstart (makespan): value {file.value} ms (new), lower bound"
        f" {file.lower_bound} ms (new)\n"
    )
    (entry,) = load_best_known("best.json").entries
    assert entry.problem.sha256 == instance_sha256(load_instance(QUICKSTART))
    assert entry.value.ticks == (file.value or 0) * US
    assert entry.value.found_by.method == file.method
    assert entry.value.found_by.versions == {
        name: file.versions[name] for name in ("ortools", "schedopt")
    }
    assert entry.bound is not None
    assert entry.bound.ticks == file.lower_bound * US
    assert entry.bound.claimed_by.method in {row.member for row in file.trace}
    limit = load_instance(QUICKSTART).devices[0].memory_limit
    assert limit is not None
    assert max(entry.value.peak_memory_grains) <= limit * US


def test_a_second_recording_changes_no_byte(run: Run) -> None:
    write_schedule("s.json", zb_h1(), bound_us=107)
    run("record", "s.json", "--store", "best.json")
    before = Path("best.json").read_bytes()
    ran = run("record", "s.json", "s.json", "--store", "best.json", "--json")
    assert ran.code == 0
    assert not ran.json["written"]
    assert [row["value_outcome"] for row in ran.json["schedules"]] == ["kept", "kept"]
    assert Path("best.json").read_bytes() == before
    Path("best.json").unlink()
    run("record", "s.json", "--store", "best.json")
    assert Path("best.json").read_bytes() == before


def test_what_was_better_and_what_was_kept_is_printed(run: Run) -> None:
    late = waiting(zb_h1(), at_us=50, by_us=3)
    write_schedule("late.json", late, bound_us=100)
    write_schedule("good.json", zb_h1())
    run("record", "late.json", "--store", "best.json")
    changed_store("best.json", value=120, lower_bound=90)
    ran = run("record", "good.json", "late.json", "--store", "best.json")
    assert ran.out.splitlines() == [
        "good.json: tiny (makespan): value 114 us (better than 120 us),"
        " lower bound 90 us (none offered)",
        "late.json: tiny (makespan): value 114 us (kept),"
        " lower bound 100 us (better than 90 us)",
    ]
    changed_store("best.json", value=107)
    assert "107 us (kept, 114 us offered)" in (
        run("record", "good.json", "--store", "best.json").out
    )


def test_the_keys_of_json(run: Run) -> None:
    write_schedule("s.json", zb_h1(), bound_us=107)
    ran = run("record", "s.json", "nosuch.json", "--store", "best.json", "--json")
    assert ran.code == 1
    assert ran.json == {
        "store": "best.json",
        "written": False,
        "schedules": [
            {
                "file": "s.json",
                "error": "",
                "instance": "tiny",
                "sha256": instance_sha256(TINY_INSTANCE),
                "objective": "makespan",
                "time_unit": "us",
                "value": 114,
                "value_offered": 114,
                "value_outcome": "new",
                "lower_bound": 107,
                "bound_offered": 107,
                "bound_outcome": "new",
            },
            {
                "file": "nosuch.json",
                "error": "nosuch.json: there is no such file; check the path",
            },
        ],
    }
    assert not Path("best.json").exists()


def test_a_value_below_the_recorded_bound_stops_the_command(run: Run) -> None:
    write_schedule("s.json", zb_h1(), bound_us=107)
    run("record", "s.json", "--store", "best.json")
    before = changed_store("best.json", value=116, lower_bound=115)
    ran = run("record", "s.json", "--store", "best.json")
    refused(ran, "s.json", "A BUG", "value 114 us", "lower bound 115 us", "by hand")
    assert ran.out == ""
    assert Path("best.json").read_bytes() == before


def test_a_bound_above_the_recorded_value_stops_the_command(run: Run) -> None:
    write_schedule("s.json", zb_h1(), bound_us=107)
    run("record", "s.json", "--store", "best.json")
    before = changed_store("best.json", value=106, lower_bound=100)
    ran = run("record", "s.json", "--store", "best.json")
    refused(ran, "s.json", "A BUG", "lower bound 107 us", "recorded value 106 us")
    assert Path("best.json").read_bytes() == before


def test_a_claim_of_optimality_is_held_against_the_replay(run: Run) -> None:
    late = waiting(zb_h1(), at_us=50, by_us=3)
    write_schedule("s.json", late, bound_us=117)
    assert load_schedule("s.json").status == "optimal"
    assert run("verify", "s.json").code == 0
    ran = run("record", "s.json", "--store", "best.json")
    refused(ran, "A BUG", "lower bound 117 us", "own replayed schedule 114 us")
    assert not Path("best.json").exists()


def test_all_schedules_are_looked_at_and_all_or_none_go_in(run: Run) -> None:
    write_schedule("good.json", zb_h1())
    write_schedule("wrong.json", zb_h1(), makespan=1)
    ran = run("record", "wrong.json", "good.json", "no.json", "--store", "best.json")
    assert ran.code == 1
    wrong, missing, last = ran.err.splitlines()
    assert "wrong.json: not recorded, the verifier refuses it: makespan" in wrong
    assert "no.json: there is no such file" in missing
    assert "best.json: nothing was written" in last
    assert ran.out == ""
    assert not Path("best.json").exists()


def test_check_reads_a_sound_store(run: Run) -> None:
    write_best_known("best.json", store_of(*several()))
    ran = run("record", "--check", "--store", "best.json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "best.json: sound, 4 entries, 1 proven optimal\n"
    assert run("record", "--check", "--store", "best.json", "--json").json == {
        "store": "best.json",
        "entries": 4,
        "optimal": 1,
    }


def test_check_refuses_a_store_that_contradicts_itself(run: Run) -> None:
    write_best_known("best.json", store_of(known(100 * US, 90 * US)))
    changed_store("best.json", value=89)
    ran = run("record", "--check", "--store", "best.json")
    refused(ran, "best.json: entries[0].lower_bound = 90: must be at most value, 89")
    assert ran.out == ""


@pytest.mark.parametrize(
    "arguments", [["record"], ["record", "--check", "s.json"], ["record", "--store"]]
)
def test_wrong_usage(run: Run, arguments: list[str]) -> None:
    ran = run(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"schema": "x"}', "\x00"])
def test_a_broken_store_is_named_and_left_alone(run: Run, text: str) -> None:
    write_schedule("s.json", zb_h1())
    Path("best.json").write_text(text)
    refused(run("record", "s.json", "--store", "best.json"), "best.json")
    refused(run("record", "--check", "--store", "best.json"), "best.json")
    assert Path("best.json").read_text() == text


def test_without_a_folder_for_the_store_nothing_is_looked_at(run: Run) -> None:
    refused(run("record", "nosuch.json"), "there is no folder results; make it")


def test_nothing_that_solves_knows_the_store() -> None:
    users = {
        str(path.relative_to(ROOT / "schedopt"))
        for path in (ROOT / "schedopt").rglob("*.py")
        if re.search(r"import.*\bbest_known|best_known\w* import", path.read_text())
    }
    own = "experiments/best_known/"
    assert {user for user in users if not user.startswith(own)} == {
        "cli/recording.py",
        "formats/reference.py",
    }


# -- the store of this repository ------------------------------------------------------


def repository_instances() -> Iterator[Instance]:
    return map(load_instance, sorted((ROOT / "instances").glob("*/*.yaml")))


def values_below_bounds(
    entries: Iterable[Entry], instances: Iterable[Instance]
) -> list[tuple[str, str, int, int]]:
    """Entries of these instances whose value is below one of the quick bounds."""
    found = []
    by_hash = {instance_sha256(instance): instance for instance in instances}
    for entry in entries:
        problem = entry.problem
        if problem.sha256 not in by_hash:
            continue
        graph = build_graph(by_hash[problem.sha256])
        found += [
            (problem.name, bound, ticks, entry.value.ticks)
            for bound, ticks in quick_bounds(graph, problem.objective).items()
            if ticks > entry.value.ticks
        ]
    return found


def is_small(instance: Instance) -> bool:
    return len(instance.stages) * instance.microbatches <= 1024


@pytest.mark.parametrize(
    "small", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["small", "large"]
)
def test_recorded_values_are_not_below_the_quick_bounds(small: bool) -> None:
    entries = load_if_present(STORE).entries
    wanted = [i for i in repository_instances() if is_small(i) is small]
    assert wanted
    assert values_below_bounds(entries, wanted) == []


def test_a_recorded_value_below_a_quick_bound_is_found() -> None:
    instance = load_instance(QUICKSTART)
    problem = replace(PROBLEM, name="q", sha256=instance_sha256(instance))
    too_good = replace(known(108 * US, None), problem=problem)
    elsewhere = replace(known(1, None), problem=PROBLEM)
    found = values_below_bounds([too_good, elsewhere], [instance])
    assert ("q", "load", 361 * US, 108 * US) in found
    assert {name for name, *_ in found} == {"q"}


def test_the_store_of_the_repository_is_as_the_command_writes_it() -> None:
    write_best_known("again.json", load_best_known(STORE))
    assert Path("again.json").read_bytes() == STORE.read_bytes()
