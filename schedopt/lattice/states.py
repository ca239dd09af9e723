"""The lattice of a stream: how many ops of each class have run, and what can run next.

A state is a count for each class on the stream. A state follows another if one more op
may start: the ops that it waits for on the stream have run, and the buffers alive,
those that it makes included, fit in memory. Any run of the stream is a path from the
state of zeros to that of all counts; each step of it runs an op.

Only steps are listed that some path within the given windows takes.

A lattice that would be too large leaves out the classes that nothing waits for
(fillers): their ops are counted as work that fills gaps. Then a step that makes buffers
can start only when enough of this work has been done to bring the memory level down
(``must``), of which no more can have been done in an earlier state than fillers could
run by then (``most``). Both hold in every run of the stream, so nothing that is
possible is left out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schedopt.lattice.listing import Int32s, Numbers, Part, listed
from schedopt.lattice.problem import Arrays, Ints, Problem, filled


class Lattices(NamedTuple):
    """The lattices of all streams, one after the other.

    States in which equally many ops have run, a *level*, stand together; a stream's
    first state is its beginning, its last the end.

    Attributes
    ----------
    first_level, level_begin : arrays
        Level v of stream s begins with the state ``level_begin[first_level[s] + v]``;
        the entry after its last level is the state after its last. A stream without a
        lattice has this one entry only.
    first_step : array by state, one entry more
        The steps from state i are ``first_step[i]`` to ``first_step[i + 1] - 1``.
    op, after : arrays by step
        The op that the step runs, and the state that it leads to.
    is_filled : array by stream
        1 where fillers are left out.
    must : array by state
        The work, beats, that must have been done when a step that makes buffers starts:
        the steps so far, and the least of fillers that frees enough.
    most : array by state
        The work that can have been done: the steps so far, and all fillers that these
        let run. Both arrays are empty if no stream is filled.
    span_begin, span_end : arrays
        For the n-th op at place p, the first and last state from which a step runs it,
        at ``first_span[p] + n``; not all states between them have one.
    """

    first_level: Ints
    level_begin: Ints
    first_step: Ints
    op: Numbers
    after: Numbers
    is_filled: Ints
    must: Ints
    most: Ints
    first_span: Ints
    span_begin: Ints
    span_end: Ints


def lattices_of(
    problem: Problem,
    head: Ints,
    last: Ints,
    *,
    most_steps: int,
    most_full: int | None = None,
    compile_loops: bool,
) -> Lattices | None:
    """Every stream's lattice within the windows; None if one has no path.

    Parameters
    ----------
    head, last : arrays by op number
        Earliest start and latest end, beats.
    most_steps : int
        For all streams together. A stream whose lattice would exceed its share of what
        the others leave has one without fillers, or none.
    most_full : int, optional
        Steps of a stream from which on fillers are left out in any case.
    """
    parts: dict[int, Part] = {}
    left = most_steps
    streams = sorted(
        range(len(problem.streams)), key=lambda s: len(problem.rules[s].counts)
    )
    for done, stream in enumerate(streams):
        share = left // (len(streams) - done)
        full = share if most_full is None else min(share, most_full)
        rules = problem.rules[stream]
        part = listed(
            problem, stream, rules, head, last, full, compile_loops=compile_loops
        )
        if part is None:
            thin = filled(rules, _fillers(problem, stream))
            if thin is not None:
                part = listed(
                    problem,
                    stream,
                    thin,
                    head,
                    last,
                    share,
                    compile_loops=compile_loops,
                )
        if part is not None:
            if not len(part.op):
                return None
            parts[stream] = part
        left -= share if part is None else len(part.op)  # looking took the time
    return _joined(problem, parts)


def _fillers(problem: Problem, stream: int) -> npt.NDArray[np.bool_]:
    """The stream's classes that nothing waits for and that hold no other stream."""
    arrays = problem.arrays
    places = slice(arrays.first_place[stream], arrays.first_place[stream + 1])
    classes = arrays.class_at[places]
    alone = (arrays.places[classes] >= 0).sum(axis=1) == 1
    found: npt.NDArray[np.bool_] = alone & (arrays.following[classes, 0] < 0)
    return found


def fillers_left_out(problem: Problem, lattices: Lattices) -> Ints:
    """The classes that each stream's lattice leaves out; rows end with -1."""
    arrays = problem.arrays
    rows: list[list[int]] = []
    for stream in range(len(problem.streams)):
        places = slice(arrays.first_place[stream], arrays.first_place[stream + 1])
        found = arrays.class_at[places][_fillers(problem, stream)]
        rows.append(found.tolist() if lattices.is_filled[stream] else [])
    width = max(map(len, rows), default=0) + 1
    return np.array([row + [-1] * (width - len(row)) for row in rows], np.int64)


def _joined(problem: Problem, parts: dict[int, Part]) -> Lattices:
    nothing = Part(
        np.zeros(1, np.int64),
        np.zeros(0, np.uint32),
        np.zeros(0, np.uint32),
        np.zeros(0, np.int32),
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
    )
    found = [parts.get(stream, nothing) for stream in range(len(problem.streams))]
    first_state = _offsets([len(part.level) for part in found])
    steps = _offsets([len(part.op) for part in found])
    levels = [
        int(begin) + _level_begins(part.level)
        for begin, part in zip(first_state, found, strict=False)
    ]
    lattices = Lattices(
        first_level=_offsets([len(begins) for begins in levels]),
        level_begin=np.concatenate(levels),
        first_step=np.concatenate(
            [
                begin + part.first_step[:-1]
                for begin, part in zip(steps, found, strict=False)
            ]
            + [steps[-1:]]
        ),
        op=np.concatenate([part.op for part in found]),
        after=np.concatenate(
            [
                (begin + part.after).astype(np.uint32)
                for begin, part in zip(first_state, found, strict=False)
            ]
        ),
        is_filled=np.array([len(part.must) > 0 for part in found], np.int64),
        must=_by_state([part.must for part in found], first_state),
        most=_by_state([part.most for part in found], first_state),
        first_span=np.zeros(0, np.int64),
        span_begin=np.zeros(0, np.int64),
        span_end=np.zeros(0, np.int64),
    )
    return _with_spans(problem.arrays, lattices)


def _by_state(values: list[Ints], first_state: Ints) -> Ints:
    """Values of all streams' states, 0 where a stream has none; none if none has."""
    if not any(map(len, values)):
        return np.zeros(0, np.int64)
    found = np.zeros(first_state[-1], np.int64)
    for begin, part in zip(first_state, values, strict=False):
        found[begin : begin + len(part)] = part
    return found


def _with_spans(arrays: Arrays, lattices: Lattices) -> Lattices:
    """The lattices with the range of states from which each op runs."""
    counts = np.diff(arrays.first_op)
    first_span = _offsets(counts[arrays.class_at].tolist())
    begins = np.zeros(first_span[-1], np.int64)
    ends = np.full(first_span[-1], -1, np.int64)
    source = np.repeat(
        np.arange(len(lattices.first_step) - 1), np.diff(lattices.first_step)
    )
    for stream in range(len(lattices.first_level) - 1):
        levels = lattices.level_begin[
            lattices.first_level[stream] : lattices.first_level[stream + 1]
        ]
        steps = slice(lattices.first_step[levels[0]], lattices.first_step[levels[-1]])
        op, state = lattices.op[steps], source[steps]
        begin_of = np.zeros(len(counts) and arrays.first_op[-1], np.int64)
        end_of = np.full_like(begin_of, -1)
        end_of[op] = state  # the last assignment stays
        begin_of[op[::-1]] = state[::-1]
        for place in range(arrays.first_place[stream], arrays.first_place[stream + 1]):
            c = arrays.class_at[place]
            ops = slice(arrays.first_op[c], arrays.first_op[c + 1])
            spans = slice(first_span[place], first_span[place + 1])
            begins[spans], ends[spans] = begin_of[ops], end_of[ops]
    return lattices._replace(first_span=first_span, span_begin=begins, span_end=ends)


def thinned(
    arrays: Arrays,
    lattices: Lattices,
    head: Ints,
    last: Ints,
    early: Ints,
    late: Ints,
    idle: Ints,
) -> tuple[Lattices, npt.NDArray[np.bool_]]:
    """The lattices without what these windows forbid, and which states remain.

    Parameters
    ----------
    early, late : arrays by state
        The earliest time in a state, and the latest from which the rest can run.
    idle : array by state
        The least time without work until then; empty if no stream is filled.
    """
    source = np.repeat(np.arange(len(early)), np.diff(lattices.first_step))
    duration = np.repeat(arrays.duration, np.diff(arrays.first_op))
    start = np.maximum(early[source], head[lattices.op])
    kept = early <= late
    must, most = lattices.must, lattices.most
    if len(must):
        makes = np.repeat(arrays.makes, np.diff(arrays.first_op))[lattices.op]
        makes &= np.repeat(lattices.is_filled, _states_of_streams(lattices))[source]
        start = np.maximum(start, (must + idle)[source] * makes)
        must, most = must[kept], most[kept]
    until = np.minimum(late[lattices.after], last[lattices.op])
    used = start + duration[lattices.op] <= until
    used &= kept[source] & kept[lattices.after]
    number = np.cumsum(kept) - 1
    steps = np.bincount(source[used], minlength=len(early))[kept]
    smaller = lattices._replace(
        first_step=_offsets(steps.tolist()),
        op=lattices.op[used],
        after=number[lattices.after[used]].astype(np.uint32),
        must=must,
        most=most,
        level_begin=np.concatenate(([0], np.cumsum(kept)))[lattices.level_begin].astype(
            np.int64
        ),
    )
    return _with_spans(arrays, smaller), kept


def _states_of_streams(lattices: Lattices) -> Ints:
    """How many states each stream's lattice has."""
    begins = lattices.level_begin[lattices.first_level[:-1]]
    ends = lattices.level_begin[lattices.first_level[1:] - 1]
    return ends - begins


def _offsets(lengths: list[int]) -> Ints:
    return np.cumsum([0, *lengths]).astype(np.int64)


def _level_begins(level: Int32s) -> Ints:
    """Where each level begins, and where the last one ends."""
    if not len(level):
        return np.zeros(1, np.int64)
    return np.searchsorted(level, np.arange(level[-1] + 2)).astype(np.int64)
