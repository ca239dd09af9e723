"""The check of torch's rows: every known fault is refused, and nothing that is right.

The faults are those of torch 2.13 that were found by trying (some of them hang or give
wrong gradients there, and no message). ``ACCEPTED`` are those that torch's own
``_validate_schedule`` lets pass; the last test shows that it does.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import product

import pytest

from schedopt.errors import FormatError
from schedopt.export.checking import MOST_FAULTS, faults
from schedopt.export.checking_grid import lockstep_faults
from schedopt.export.checking_rows import Fault, FaultRule
from schedopt.export.lowering import lower_rows
from schedopt.export.torch_tokens import Token, parse_rows, text_of
from tests.blocking_player import runs_right
from tests.torch_schedules import FORMS, SHAPES, drawn

# Two ranks with a stage each, two microbatches, transfers listed.
GOOD_COMMS = (
    "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1,0REDUCE_GRAD",
    "1RECV_F0,1F0,1RECV_F1,1B0,1SEND_B0,1F1,1B1,1SEND_B1,1REDUCE_GRAD",
)
GOOD = ("0F0,0F1,0B0,0B1", "1F0,1B0,1F1,1I1,1W1")


def found(*rows: str, microbatches: int | None = 2) -> tuple[Fault, ...]:
    return faults(parse_rows("\n".join(rows)), microbatches=microbatches)


def only(rule: FaultRule, *rows: str, microbatches: int | None = 2) -> Fault:
    """The first fault; all of them are of the one rule."""
    all_found = found(*rows, microbatches=microbatches)
    assert all_found
    assert {fault.rule for fault in all_found} == {rule}
    return all_found[0]


def at(fault: Fault) -> tuple[int | None, int | None, str]:
    return fault.rank, fault.position, fault.token


def test_right_rows_have_no_fault() -> None:
    assert found(*GOOD) == ()
    assert found(*GOOD_COMMS) == ()
    assert found("0F0,0B0,0REDUCE_GRAD", microbatches=1) == ()


def test_everything_that_lowering_makes_is_right() -> None:
    rng = random.Random(7)
    for shape, form in product(SHAPES, FORMS):
        for _ in range(8):
            case = drawn(rng, shape, form)
            expected = {
                "microbatches": case.microbatches,
                "rank_of_stage": case.rank_of_stage,
            }
            lowered = lower_rows(case.rows, case.rank_of_stage, case.microbatches).rows
            assert faults(case.rows, **expected) == ()  # type: ignore[arg-type]
            assert faults(lowered, **expected) == ()  # type: ignore[arg-type]
            assert parse_rows(text_of(lowered)) == lowered


def test_no_token_can_be_taken_out_or_doubled() -> None:
    rng = random.Random(5)
    for shape, form in product(SHAPES, FORMS):
        case = drawn(rng, shape, form)
        rows = lower_rows(case.rows, case.rank_of_stage, case.microbatches).rows
        for rank, row in enumerate(rows):
            position = rng.randrange(len(row))
            before, after = row[:position], row[position + 1 :]
            for changed in (before + after, before + (row[position],) * 2 + after):
                wrong = (*rows[:rank], changed, *rows[rank + 1 :])
                assert faults(
                    wrong,
                    microbatches=case.microbatches,
                    rank_of_stage=case.rank_of_stage,
                    lists_transfers=True,
                ), (rank, row[position])


def test_moved_tokens_are_judged_as_by_playing_the_rows() -> None:
    """Neither is anything accepted that goes wrong, nor anything refused that does not.

    The player blocks in transfers, gives messages no names and knows none of the rules.
    """
    rng = random.Random(11)
    judged = Counter[bool]()
    for shape, form in product(SHAPES, FORMS):
        case = drawn(rng, shape, form)
        placed = case.rank_of_stage, case.microbatches
        right = lower_rows(case.rows, *placed).rows
        assert runs_right(right, *placed)
        for _ in range(60):
            rows = [list(row) for row in right]
            for _ in range(rng.choice((1, 1, 2, 3))):
                row = rng.choice(rows)
                place = rng.randrange(len(row))
                row.insert(max(0, place + rng.randint(-3, 3)), row.pop(place))
            is_right = runs_right(rows, *placed)
            found = faults(
                rows,
                microbatches=case.microbatches,
                rank_of_stage=case.rank_of_stage,
                lists_transfers=True,
            )
            assert is_right == (not found), (rows, found)
            judged[is_right] += 1
    assert min(judged[True], judged[False]) > 50


def test_a_fault_says_where_and_what_to_change() -> None:
    (fault,) = found("0F0,0F1,0B0,0B1", "1F1,1F0,1B0,1B1")
    assert str(fault) == (
        "rank 1, position 0, 1F1: last stage's order: the last stage's forwards must"
        " run in the order 0, 1, 2, ..., and 0 comes here: torch looks losses up by"
        " their place; number the microbatches anew in this order, on every stage"
    )


# Malformed text


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("0F0x", "has 'x' after the token 0F0; take that off"),
        ("0B0 junk", "has ' junk' after the token 0B0"),
        ("0F", "has no microbatch; write e.g. 0F0"),
        ("0SEND_F", "has no microbatch"),
        ("0f0", "has lowercase letters; write 0F0"),
        ("0REDUCE_GRAD1", "write 0REDUCE_GRAD"),
        ("0UNSHARD1", "write 0UNSHARD"),
        ("F0", "is not a token"),
        ("0X0", "is not a token"),
        ("-1F0", "is not a token"),
        ("00F0", "is not a token"),
        ("0F00", "has '0' after the token 0F0"),
        ("٣F0", "is not a token"),
        ("9" * 5000 + "F0", "is not a token"),
        ("(0F1;0B0)OVERLAP_F_B", "two cells"),
        ('"0F0"', "is not a token"),
    ],
)
def test_malformed_tokens(cell: str, words: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse_rows(f"0F0,0B0\n1F0,{cell},1B0\n")
    message = str(caught.value)
    assert message.startswith("rank 1, position 1, ")
    assert "malformed token" in message
    assert words in message
    assert len(message) < 250


def test_an_empty_line_is_a_rank_to_torch() -> None:
    assert parse_rows("0F0\n") == parse_rows("0F0") == ((Token.parse("0F0"),),)
    with pytest.raises(FormatError, match=r"^rank 1: the line is empty.*take the line"):
        parse_rows("0F0\n\n")
    with pytest.raises(FormatError, match=r"^rank 0: the line is empty"):
        parse_rows("\n0F0\n")


def test_idle_cells_and_blanks_are_passed_over() -> None:
    assert parse_rows("0F0,, 0B0 ,\r\n,1F0,1B0\r\n") == parse_rows("0F0,0B0\n1F0,1B0")


def test_rows_with_transfers_have_no_idle_cells() -> None:
    # torch: an AssertionError without a word on where.
    idle = "\n".join((GOOD_COMMS[0].replace("0F1,", "0F1,,"), GOOD_COMMS[1]))
    with pytest.raises(FormatError, match="rank 0, position 3: the cell is empty"):
        parse_rows(idle)


def test_no_rows() -> None:
    assert "there are no rows" in str(only(FaultRule.PLACEMENT, ""))


# Placement


def test_a_stage_on_two_ranks() -> None:
    fault = only(FaultRule.PLACEMENT, "0F0,0F1,0B0,1B1,0B1", "1F0,1B0,1F1")
    assert at(fault) == (1, 0, "1F0")


def test_a_stage_that_is_nowhere() -> None:
    assert at(only(FaultRule.PLACEMENT, "0F0,0B0", "2F0,2B0")) == (None, None, "1F0")


def test_a_rank_without_a_stage() -> None:
    (fault,) = faults([*parse_rows("0F0,0B0"), ()])
    assert (fault.rank, fault.rule) == (1, FaultRule.PLACEMENT)


def test_rows_swapped_against_the_stages_that_the_ranks_hold() -> None:
    rows = parse_rows("\n".join(reversed(GOOD)))
    all_found = faults(rows, rank_of_stage=(0, 1))
    assert {fault.rule for fault in all_found} == {FaultRule.PLACEMENT}
    assert "stage 1 belongs to rank 1" in str(all_found[0])


# Counts


@pytest.mark.parametrize(
    ("rows", "where"),
    [
        # Accepted by torch: it keeps sets.
        (("0F0,0F0,0F1,0B0,0B1", GOOD[1]), (0, 1, "0F0")),
        (("0F0,0F1,0B0,0B0,0B1", GOOD[1]), (0, 3, "0B0")),
        # 0B0, 0I0 and 0W0, while 0B1 is missing: torch's counts add up.
        (("0F0,0F1,0B0,0I0,0W0", GOOD[1]), (0, 3, "0I0")),
        # Refused by torch too.
        (("0F0,0B0,0B1", GOOD[1]), (0, None, "0F1")),
        (("0F0,0F1,0B0,0I1", GOOD[1]), (0, None, "0W1")),
        (("0F0,0F1,0B0,0W1", GOOD[1]), (0, None, "0I1")),
        (("0F0,0F1,0B0", GOOD[1]), (0, None, "0B1")),
    ],
)
def test_counts(rows: tuple[str, ...], where: tuple[int, int | None, str]) -> None:
    assert at(only(FaultRule.COUNT, *rows)) == where


def test_a_backward_run_twice_while_another_is_missing() -> None:
    all_found = found("0F0,0F1,0B0,0I0,0W0", GOOD[1])
    assert [fault.token for fault in all_found] == ["0I0", "0W0", "0B1"]


def test_microbatches_that_are_not_numbered_through() -> None:
    rows = ("0F0,0F7,0B0,0B7", "1F0,1B0,1F7,1B7")
    assert at(only(FaultRule.COUNT, *rows)) == (0, 1, "0F7")
    missing = found(*rows, microbatches=None)
    assert {fault.token for fault in missing if fault.rank == 0} == {
        f"0{kind}{number}" for kind in "FB" for number in range(1, 7)
    }


def test_a_huge_number_is_no_long_list() -> None:
    assert len(found("0F0,0F99999999,0B0", microbatches=None)) == MOST_FAULTS
    assert at(found("0F0,0B0,99999999F0")[0]) == (None, None, "1F0")


# The order of one rank


@pytest.mark.parametrize(
    ("rows", "where"),
    [
        (("0F0,0W0,0I0,0F1,0B1", GOOD[1]), (0, 1, "0W0")),
        (("0B0,0F0,0F1,0B1", GOOD[1]), (0, 0, "0B0")),
        # Stages of one rank hand over on it.
        (("1F0,0F0,1B0,0B0,0F1,1F1,1B1,0B1",), (0, 0, "1F0")),
        (("0F0,1F0,0B0,1B0,0F1,1F1,1B1,0B1",), (0, 2, "0B0")),
        # A message that is used before it is received, or sent before it is there.
        (
            (
                GOOD_COMMS[0],
                "1F0,1RECV_F0,1RECV_F1,1B0,1SEND_B0,1F1,1B1,1SEND_B1,1REDUCE_GRAD",
            ),
            (1, 0, "1F0"),
        ),
        (
            (
                "0SEND_F0,0F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1,0REDUCE_GRAD",
                GOOD_COMMS[1],
            ),
            (0, 0, "0SEND_F0"),
        ),
        (
            (
                "0F0,0SEND_F0,0F1,0SEND_F1,0B0,0RECV_B0,0RECV_B1,0B1,0REDUCE_GRAD",
                GOOD_COMMS[1],
            ),
            (0, 4, "0B0"),
        ),
    ],
)
def test_dependencies(rows: tuple[str, ...], where: tuple[int, int, str]) -> None:
    assert at(only(FaultRule.DEPENDENCY, *rows)) == where


def test_last_stage_out_of_order_is_refused_and_other_stages_may_be() -> None:
    # Torch accepts it, and the other ranks get gradients of other microbatches.
    assert at(only(FaultRule.LAST_STAGE, GOOD[0], "1F1,1B1,1F0,1B0")) == (1, 0, "1F1")
    assert found("0F1,0F0,0B0,0B1", "1F0,1B0,1F1,1B1") == ()


# Gradient reduction and sharding


def test_reduce_grad_is_there_once_after_the_last_backward() -> None:
    # Torch accepts its absence and does not divide the gradients.
    without = GOOD_COMMS[0].removesuffix(",0REDUCE_GRAD")
    assert at(only(FaultRule.REDUCTION, without, GOOD_COMMS[1])) == (
        0,
        None,
        "0REDUCE_GRAD",
    )
    twice = GOOD_COMMS[0] + ",0REDUCE_GRAD"
    assert at(only(FaultRule.REDUCTION, twice, GOOD_COMMS[1])) == (0, 9, "0REDUCE_GRAD")
    early = without.removesuffix(",0B1") + ",0REDUCE_GRAD,0B1"
    assert at(only(FaultRule.REDUCTION, early, GOOD_COMMS[1])) == (0, 7, "0REDUCE_GRAD")


def test_unshard_and_reshard_alternate() -> None:
    rows = "0UNSHARD,0F0,0RESHARD,0UNSHARD,0B0,0RESHARD,0REDUCE_GRAD"
    assert found(rows, microbatches=1) == ()
    for wrong, where in (
        ("0UNSHARD,0UNSHARD,0F0,0B0,0REDUCE_GRAD", (0, 1, "0UNSHARD")),
        ("0UNSHARD,0F0,0RESHARD,0B0,0REDUCE_GRAD", (0, 3, "0B0")),
        ("0UNSHARD,0F0,0B0,0RESHARD,0RESHARD,0REDUCE_GRAD", (0, 4, "0RESHARD")),
    ):
        assert at(only(FaultRule.SHARDING, wrong, microbatches=1)) == where


def test_transfers_have_no_place_in_a_compute_only_file() -> None:
    rows = parse_rows("\n".join(GOOD_COMMS))
    all_found = faults(rows, lists_transfers=False)
    assert at(all_found[0]) == (0, 1, "0SEND_F0")
    assert {fault.rule for fault in all_found} == {FaultRule.FORM}


# Transfers


def without(row: str, cell: str) -> str:
    cells = row.split(",")
    cells.remove(cell)
    return ",".join(cells)


def test_a_missing_send() -> None:
    # Torch waits until the process group gives up.
    fault = only(FaultRule.TRANSFER, without(GOOD_COMMS[0], "0SEND_F1"), GOOD_COMMS[1])
    assert at(fault) == (0, None, "0SEND_F1")


def test_a_missing_receive() -> None:
    fault = only(FaultRule.TRANSFER, GOOD_COMMS[0], without(GOOD_COMMS[1], "1RECV_F1"))
    assert at(fault) == (1, None, "1RECV_F1")


def test_a_doubled_send() -> None:
    # Torch takes the message that is left over in the next step.
    twice = GOOD_COMMS[0].replace("0SEND_F1", "0SEND_F1,0SEND_F1")
    assert at(only(FaultRule.TRANSFER, twice, GOOD_COMMS[1])) == (0, 4, "0SEND_F1")


def test_a_doubled_receive() -> None:
    # Torch runs the first step and stops in the second.
    twice = f"{GOOD_COMMS[1]},1RECV_F1"
    assert at(only(FaultRule.TRANSFER, GOOD_COMMS[0], twice)) == (1, 9, "1RECV_F1")


def test_transfers_that_have_no_other_end() -> None:
    over = f"{GOOD_COMMS[1]},1SEND_F0"
    assert at(only(FaultRule.TRANSFER, GOOD_COMMS[0], over)) == (1, 9, "1SEND_F0")
    own = "0F0,0SEND_F0,1RECV_F0,1F0,1B0,1REDUCE_GRAD,0B0,0REDUCE_GRAD"
    assert at(only(FaultRule.TRANSFER, own, microbatches=1)) == (0, 1, "0SEND_F0")


def test_receives_in_another_order_than_the_sends() -> None:
    # Torch's messages have no names: silently the wrong data.
    swapped = GOOD_COMMS[1].replace("1RECV_F0,1F0,1RECV_F1", "1RECV_F1,1RECV_F0,1F0")
    fault = only(FaultRule.FIFO, GOOD_COMMS[0], swapped)
    assert at(fault) == (1, 0, "1RECV_F1")
    assert "0SEND_F0, which rank 0 sends at its position 1" in fault.detail


def test_first_in_first_out_mixes_stages_and_directions() -> None:
    # Rank 0 sends 0F0 forward and the gradient of 2 back to stage 1, both to rank 1.
    rows = [
        "0F0,0SEND_F0,2RECV_F0,2F0,2B0,2SEND_B0,0RECV_B0,0B0,0REDUCE_GRAD,2REDUCE_GRAD",
        "1RECV_F0,1F0,1SEND_F0,1RECV_B0,1B0,1SEND_B0,1REDUCE_GRAD",
    ]
    assert found(*rows, microbatches=1) == ()
    two = [
        "0F0,0SEND_F0,0F1,2RECV_F0,2F0,2B0,0SEND_F1,2SEND_B0,0RECV_B0,0B0,2RECV_F1,2F1,"
        "2B1,2SEND_B1,0RECV_B1,0B1,0REDUCE_GRAD,2REDUCE_GRAD",
        "1RECV_F0,1F0,1SEND_F0,1RECV_B0,1RECV_F1,1B0,1SEND_B0,1F1,1SEND_F1,1RECV_B1,"
        "1B1,1SEND_B1,1REDUCE_GRAD",
    ]
    assert at(only(FaultRule.FIFO, *two)) == (1, 3, "1RECV_B0")


def test_the_order_of_a_pair_in_both_directions() -> None:
    # Each channel by itself is in order, but rank 1 sends where rank 0 sends, too.
    crossed = (
        "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1,0REDUCE_GRAD",
        "1RECV_F0,1F0,1B0,1SEND_B0,1RECV_F1,1F1,1B1,1SEND_B1,1REDUCE_GRAD",
    )
    assert at(only(FaultRule.PAIR, *crossed)) == (0, 3, "0SEND_F1")


def test_the_deadlock_of_pytorch_issue_172668() -> None:
    # Both ranks want to send to the other one before they receive from it.
    rows = (
        "0F0,0SEND_F0,0F1,0SEND_F1,2RECV_F0,2F0,2B0,2SEND_B0,2RECV_F1,2F1,2B1,2SEND_B1,"
        "0RECV_B0,0B0,0RECV_B1,0B1,0REDUCE_GRAD,2REDUCE_GRAD",
        "1RECV_F0,1F0,1SEND_F0,1RECV_F1,1F1,1SEND_F1,1RECV_B0,1B0,1SEND_B0,1RECV_B1,1B1,"
        "1SEND_B1,1REDUCE_GRAD",
    )
    fault = only(FaultRule.PAIR, *rows)
    assert at(fault) == (0, 3, "0SEND_F1")
    assert "1SEND_F0" in fault.detail


def test_three_ranks_whose_transfers_wait_in_a_circle() -> None:
    # Each pair agrees with itself. Rank 0 holds stages 0 and 3, ranks 1 and 2 one each.
    # Rank 0 wants 3's message before it sends 0F1, which rank 1 wants before it sends
    # 1F0 to rank 2, which has that before it sends.
    right = (
        "0F0,0SEND_F0,0F1,0SEND_F1,3RECV_F0,3F0,3B0,3SEND_B0,3RECV_F1,3F1,3B1,3SEND_B1,"
        "0RECV_B0,0B0,0RECV_B1,0B1,0REDUCE_GRAD,3REDUCE_GRAD",
        "1RECV_F0,1F0,1RECV_F1,1SEND_F0,1F1,1SEND_F1,1RECV_B0,1B0,1SEND_B0,1RECV_B1,1B1,"
        "1SEND_B1,1REDUCE_GRAD",
        "2RECV_F0,2F0,2SEND_F0,2RECV_F1,2F1,2SEND_F1,2RECV_B0,2B0,2SEND_B0,2RECV_B1,2B1,"
        "2SEND_B1,2REDUCE_GRAD",
    )
    # Of rank 2 the gradient of 3F0 arrives before 2F1 has its input: reorder the pair.
    first = right[0].replace("3B0,3SEND_B0,3RECV_F1,3F1", "3B0,3RECV_F1,3F1,3SEND_B0")
    assert found(first, *right[1:]) == ()
    late = first.replace("0F1,0SEND_F1,3RECV_F0", "0F1,3RECV_F0,0SEND_F1")
    fault = only(FaultRule.WAIT, late, *right[1:])
    assert at(fault) == (0, 3, "3RECV_F0")
    assert "rank 1 stops at 1RECV_F1 and waits for 0SEND_F1 on rank 0" in fault.detail
    assert "rank 2 stops at 2RECV_F0 and waits for 1SEND_F0 on rank 1" in fault.detail


def test_compute_rows_that_wait_in_a_circle() -> None:
    fault = only(FaultRule.WAIT, "0F0,0B0,0F1,0B1", "1F0,1F1,1B0,1B1")
    assert at(fault) == (0, 1, "0B0")
    assert "waits for 1B0 on rank 1; rank 1 stops at 1F1 and waits for 0F1" in str(
        fault
    )


# Ways of running that torch offers


def test_deferred_receives_need_messages_used_in_the_order_sent() -> None:
    # Rank 1 uses microbatch 1 first; right as it is, and wrong with defer_pp_recv=True.
    rows = parse_rows("0F0,0F1,0B0,0B1\n1F1,1F0,1B0,1B1\n2F0,2F1,2B0,2B1")
    assert faults(rows) == ()
    (fault,) = faults(rows, defers_receives=True)
    assert (fault.rule, at(fault)) == (FaultRule.DEFERRED, (1, 0, "1F1"))
    assert faults(parse_rows("\n".join(GOOD)), defers_receives=True) == ()


def test_a_grid_that_is_not_aligned_is_none_for_the_lockstep_runtime() -> None:
    assert lockstep_faults("0F0,0F1,,0B0,,0B1\n,1F0,1B0,1F1,1B1,\n") == ()
    (beside,) = lockstep_faults("0F0,0F1,,0B0,0B1,\n,1F0,1B0,1F1,1B1,\n")
    assert (beside.rule, at(beside)) == (FaultRule.LOCKSTEP, (0, 4, "0B1"))
    ragged = lockstep_faults("0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n")
    assert [at(fault) for fault in ragged] == [(0, 3, "0B1"), (1, 0, "1F0")]


# torch itself

ACCEPTED = [
    (GOOD[0], "1F1,1B1,1F0,1B0"),
    ("0F0,0F0,0F1,0B0,0B1", GOOD[1]),
    ("0F0,0F1,0B0,0B0,0B1", GOOD[1]),
    ("0F0,0F1,0B0,0I0,0W0", GOOD[1]),
    ("0F0,0F7,0B0,0B7", "1F0,1B0,1F7,1B7"),
    ("0F,0F0,0B,0B0", "1F0,1B0,1F1,1B1"),
    ("0F0x,0F1,0B0 junk,0B1", GOOD[1]),
    (without(GOOD_COMMS[0], "0REDUCE_GRAD"), GOOD_COMMS[1]),
    (without(GOOD_COMMS[0], "0SEND_F1"), GOOD_COMMS[1]),
    (GOOD_COMMS[0].replace("0SEND_F1", "0SEND_F1,0SEND_F1"), GOOD_COMMS[1]),
    (GOOD_COMMS[0], f"{GOOD_COMMS[1]},1RECV_F1"),
    (
        GOOD_COMMS[0],
        GOOD_COMMS[1].replace("1RECV_F0,1F0,1RECV_F1", "1RECV_F1,1RECV_F0,1F0"),
    ),
]


@pytest.mark.parametrize("rows", ACCEPTED)
def test_torch_accepts_what_is_refused_here(rows: tuple[str, ...]) -> None:
    try:
        refused = bool(found(*rows))
    except FormatError:
        refused = True
    assert refused
    schedules = pytest.importorskip("torch.distributed.pipelining.schedules")
    actions = {
        rank: [schedules._Action.from_str(cell) for cell in row.split(",")]
        for rank, row in enumerate(rows)
    }
    assert schedules._validate_schedule(actions, 2, 2, 2) == {0: 0, 1: 1}


def test_what_torch_makes_of_deferred_receives_is_refused() -> None:
    schedules = pytest.importorskip("torch.distributed.pipelining.schedules")
    texts = "0F0,0F1,0B0,0B1\n1F1,1F0,1B0,1B1\n2F0,2F1,2B0,2B1"
    lowered = lower_rows(parse_rows(texts), (0, 1, 2), 2).rows
    assert faults(lowered) == ()
    actions = {
        rank: [schedules._Action.from_str(str(token)) for token in row]
        for rank, row in enumerate(lowered)
    }
    deferred = schedules._defer_recv_ops(actions, lambda stage: stage)
    text = "\n".join(",".join(map(str, row)) for row in deferred.values())
    assert at(only(FaultRule.FIFO, *text.splitlines())) == (1, 0, "1RECV_F1")
