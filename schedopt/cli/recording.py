"""``record``: schedules into the store of the best values known, and its check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from schedopt.cli.exits import DONE, REFUSED
from schedopt.cli.output import complain, print_json, print_text
from schedopt.cli.saving import check_writable
from schedopt.errors import SchedOptError
from schedopt.experiments.best_known import (
    KnownBound,
    Outcome,
    Problem,
    Recorded,
    load_best_known,
    load_if_present,
    offer_from,
    write_best_known,
)
from schedopt.experiments.best_known import record as record_offer
from schedopt.formats import Limits, load_schedule
from schedopt.formats.complaints import one_line
from schedopt.report.quantities import count_text


def record(paths: list[Path], store: Path, limits: Limits, *, as_json: bool) -> int:
    """Put schedules into the store; every one is looked at, and all or none go in."""
    check_writable(store)
    before = load_if_present(store, limits)
    known = before
    documents: list[dict[str, Any]] = []
    lines = []
    code = DONE
    for path in paths:
        try:
            done = record_offer(
                known, offer_from(load_schedule(path, limits), str(path))
            )
        except SchedOptError as error:
            complain(str(error))
            documents.append({"file": str(path), "error": str(error)})
            code = REFUSED
            continue
        known = done.store
        documents.append({"file": str(path), "error": "", **_document(done)})
        lines.append(one_line(_line(done)))
    written = code == DONE and known != before
    if written:
        write_best_known(store, known)
    if as_json:
        print_json({"store": str(store), "written": written, "schedules": documents})
    elif code == DONE:
        print_text("\n".join(lines))
    elif len(paths) > 1:
        complain(f"{store}: nothing was written; leave out what is refused")
    return code


def check(store: Path, limits: Limits, *, as_json: bool) -> int:
    """Read the store; its format's rules are checked, values against bounds too."""
    entries = load_best_known(store, limits).entries
    proven = sum(entry.is_proven for entry in entries)
    if as_json:
        print_json({"store": str(store), "entries": len(entries), "optimal": proven})
    else:
        count = count_text(len(entries), "entry", "entries")
        print_text(one_line(f"{store}: sound, {count}, {proven} proven optimal"))
    return DONE


def _line(done: Recorded) -> str:
    """What is known now, and what became of the schedule's value and bound."""
    entry, offer, before = done.entry, done.offer, done.before
    problem = entry.problem
    value = _amount(
        problem,
        done.value,
        entry.value.ticks,
        offer.value.ticks,
        None if before is None else before.value.ticks,
    )
    bound = _amount(
        problem,
        done.bound,
        _ticks(entry.bound),
        _ticks(offer.bound),
        None if before is None else _ticks(before.bound),
    )
    return f"{offer.where}: {problem}: value {value}, lower bound {bound}"


def _amount(
    problem: Problem,
    outcome: Outcome,
    known: int | None,
    offered: int | None,
    before: int | None,
) -> str:
    """An amount in ticks with its unit, and what became of the one offered."""
    now, new, old = (
        "-" if ticks is None else problem.time_text(ticks)
        for ticks in (known, offered, before)
    )
    match outcome:
        case Outcome.NEW:
            return f"{now} (new)"
        case Outcome.BETTER:
            return f"{now} (better than {old})"
        case Outcome.KEPT:
            return f"{now} (kept)" if new == now else f"{now} (kept, {new} offered)"
        case Outcome.NONE:
            return f"{now} (none offered)"


def _ticks(bound: KnownBound | None) -> int | None:
    return None if bound is None else bound.ticks


def _document(done: Recorded) -> dict[str, Any]:
    problem, entry, offer = done.entry.problem, done.entry, done.offer
    time = problem.units.time_of
    return {
        "instance": problem.name,
        "sha256": problem.sha256,
        "objective": problem.objective.value,
        "time_unit": problem.units.time,
        "value": time(entry.value.ticks),
        "value_offered": time(offer.value.ticks),
        "value_outcome": done.value.value,
        "lower_bound": None if entry.bound is None else time(entry.bound.ticks),
        "bound_offered": None if offer.bound is None else time(offer.bound.ticks),
        "bound_outcome": done.bound.value,
    }
