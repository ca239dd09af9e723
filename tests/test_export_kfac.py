"""Rows of trainings with K-FAC: what they have, and what is refused; without torch."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

import schedopt
from schedopt.errors import ExportError
from schedopt.export import Program
from schedopt.export.kfac_rows import (
    SLOT_KINDS,
    KfacRows,
    check,
    inverses_in_use,
    kfac_rows,
    ops_by_step,
)
from schedopt.export.torch_tokens import Token, TokenKind
from schedopt.instance import Placement
from schedopt.ops import Op, OpKind
from tests.kfac_programs import interval_of, moved, packed, slot_of, training


@pytest.fixture(scope="module")
def program() -> Program:
    return packed("gpipe", training())


@pytest.fixture(scope="module")
def rows(program: Program) -> KfacRows:
    return kfac_rows(program)


def test_every_op_stands_once_in_the_order_of_its_device(rows: KfacRows) -> None:
    program = rows.program
    for rank, scheduled in enumerate(program.rows):
        executed = [
            rows.slots[token.stage][token.microbatch or 0]
            if token.kind is TokenKind.UNSHARD
            else Op(OpKind(token.kind.value), token.stage, token.microbatch or 0, step)
            for step, of_step in enumerate(rows.steps)
            for token in of_step[rank]
            if token.kind.is_compute or token.kind is TokenKind.UNSHARD
        ]
        assert tuple(executed) == scheduled
    assert {op.kind for ops in rows.slots for op in ops} == SLOT_KINDS


def test_files(program: Program, rows: KfacRows) -> None:
    made = schedopt.export(program, "torch-kfac").files
    table = json.loads(made["second-order.kfac.json"])
    assert [len(made[name].splitlines()) for name in table["steps"]] == [2] * 4
    assert table["repeated"] == [2, 4] == list(rows.repeated or ())
    assert table["layers"] == [["attention.0", "attention.1", "mlp"]] * 2
    for stage, slots in enumerate(table["slots"]):
        text = ",".join(made[name].splitlines()[stage] for name in table["steps"])
        cells = Counter(text.split(","))
        assert all(
            cells[f"{stage}UNSHARD{number}"] == 1 for number in range(len(slots))
        )
    for name in ("kfac_slots.py", "run_torch_kfac.py"):
        assert "import schedopt" not in made[name]  # they need torch and nothing else
        assert "from schedopt" not in made[name]


def test_one_refresh_does_not_say_what_repeats(rows: KfacRows) -> None:
    kfac = replace(rows.kfac, refreshes=1)
    instance = replace(rows.program.instance, kfac=kfac)
    alone = replace(rows, program=replace(rows.program, instance=instance))
    assert alone.repeated is None


def test_inverses_are_used_from_the_step_on_in_which_they_are_ready() -> None:
    program = packed("1f1b", wrapping(), wrap=True)
    used = inverses_in_use(program)
    for op, of_factor in used.items():
        for inversion, start in program.schedule.start.items():
            if inversion.kind is not OpKind.INVERSION or inversion.stage != op.stage:
                continue
            is_ready = start < program.schedule.start[op]
            newest = of_factor.get(inversion.part, -1)
            assert is_ready == (newest >= inversion.step)


def wrapping() -> schedopt.Instance:
    return training(2, 4, curvature=2)


def test_work_that_wraps_stands_in_the_next_cycle() -> None:
    # The shortest interval without it is longer by a step.
    assert interval_of(packed("1f1b", wrapping())) == 4
    program = packed("1f1b", wrapping(), wrap=True)
    assert interval_of(program) == 3
    late = [
        op
        for device in range(2)
        for ops in ops_by_step(program, device)[3:]
        for op in ops
        if op.step == 0
    ]
    assert late
    kfac_rows(program)


@pytest.mark.parametrize(
    ("op", "needs"),
    [
        (Op(OpKind.CURVATURE_A, 1, 1, 0, "mlp"), "1F1"),
        (Op(OpKind.CURVATURE_B, 1, 0, 0, "mlp"), "1B0 or 1I0"),
        (Op(OpKind.CURVATURE_B, 1, 2, 2, "mlp"), "2@1B2 or 2@1I2"),
        (Op(OpKind.PRECONDITION, 0, 0, 1), "0REDUCE_GRAD of step 1"),
        (Op(OpKind.STEP, 1, 0, 0), "1PRECONDITION0"),
    ],
)
def test_a_slot_before_what_it_needs_is_refused(
    rows: KfacRows, op: Op, needs: str
) -> None:
    early = moved(rows, op, 0)
    with pytest.raises(ExportError, match=f"{op} needs {needs} before it"):
        check(early)


def test_an_inversion_before_its_last_share_is_refused(rows: KfacRows) -> None:
    op = next(op for op in rows.slots[1] if op.kind is OpKind.INVERSION and op.step)
    with pytest.raises(ExportError, match="needs all 3 shares of its factor, not"):
        check(moved(rows, op, 0))


def test_a_factor_is_not_overwritten_before_its_inversion(rows: KfacRows) -> None:
    """The inversion of the first refresh goes to the end of the second one's step."""
    op = next(
        op
        for op in rows.slots[0]
        if op.kind is OpKind.INVERSION and slot_of(rows, op)[0] == 1
    )
    step, rank, position = slot_of(rows, op)
    changed = [list(map(list, of_step)) for of_step in rows.steps]
    changed[3][rank].append(changed[step][rank].pop(position))
    steps = tuple(tuple(map(tuple, of_step)) for of_step in changed)
    with pytest.raises(ExportError, match=rf"needs {op} before it"):
        check(replace(rows, steps=steps))


def test_forgotten_doubled_and_unknown_slots_are_refused(rows: KfacRows) -> None:
    first, *later = rows.steps
    row = list(first[0])
    slot = next(token for token in row if token.kind is TokenKind.UNSHARD)

    def with_row(*tokens: Token) -> KfacRows:
        return replace(rows, steps=((tokens, *first[1:]), *later))

    with pytest.raises(ExportError, match="stands nowhere; add 0UNSHARD0"):
        check(with_row(*(token for token in row if token != slot)))
    with pytest.raises(ExportError, match="stands a second time"):
        check(with_row(*row, slot))
    unknown = slot._replace(microbatch=1000)
    with pytest.raises(ExportError, match="slots of the stage"):
        check(with_row(*row, unknown))


def test_the_rows_around_the_slots_are_checked(rows: KfacRows) -> None:
    first, *later = rows.steps
    row = [token for token in first[0] if token.kind is not TokenKind.REDUCE_GRAD]
    with pytest.raises(ExportError, match="gradient reduction"):
        check(replace(rows, steps=((tuple(row), *first[1:]), *later)))


def test_what_two_ranks_hold_is_refused(program: Program) -> None:
    instance = replace(program.instance, placement=Placement.BIDIRECTIONAL)
    with pytest.raises(ExportError, match="a stage that two ranks hold"):
        kfac_rows(replace(program, instance=instance))


def test_replicas_are_refused(program: Program) -> None:
    kfac = program.instance.kfac
    assert kfac is not None
    instance = replace(program.instance, kfac=replace(kfac, replicas=2))
    with pytest.raises(ExportError, match=r"kfac.replicas = 2"):
        kfac_rows(replace(program, instance=instance))


def test_a_training_without_kfac_is_refused(program: Program) -> None:
    instance = replace(program.instance, kfac=None)
    with pytest.raises(ExportError, match="has no K-FAC work"):
        kfac_rows(replace(program, instance=instance))


def test_inputs_that_are_recomputed_are_there_with_the_backward() -> None:
    everywhere = training(2, 3, recompute=frozenset({0, 1}))
    program = packed("1f1b", everywhere)
    between = [
        op
        for row in program.rows
        for recomputed, op in pairwise(row)
        if recomputed.kind is OpKind.RECOMPUTE and op.kind is OpKind.CURVATURE_A
    ]
    assert between  # which the frame leaves room for
    with pytest.raises(ExportError, match="in which torch recomputes its input"):
        kfac_rows(program)
