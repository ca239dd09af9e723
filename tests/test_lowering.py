"""Lowering: the same rows as torch's, one total order, and cyclic orders refused."""

from __future__ import annotations

import random
from itertools import combinations, pairwise, product

import pytest

from schedopt.errors import ExportError
from schedopt.export.lowering import lower_rows
from schedopt.export.torch_tokens import Rows, Token
from tests.torch_schedules import FORMS, SHAPES, Drawn, drawn

EACH = 12  # drawn schedules of each shape and form: 144 in all


def rows(*texts: str) -> Rows:
    return tuple(tuple(map(Token.parse, text.split(","))) for text in texts)


def drawn_schedules() -> list[Drawn]:
    rng = random.Random(13)
    return [drawn(rng, *case) for case in product(SHAPES, FORMS) for _ in range(EACH)]


def lowered(case: Drawn) -> list[list[str]]:
    found = lower_rows(case.rows, case.rank_of_stage, case.microbatches).rows
    return [[str(token) for token in row] for row in found]


def test_lowered_rows_are_those_of_torch() -> None:
    schedules = pytest.importorskip("torch.distributed.pipelining.schedules")
    cases = drawn_schedules()
    assert len(cases) >= 100
    assert {len(case.rows) for case in cases} == {2, 3, 4, 5}
    for case in cases:
        reduced = {
            rank: schedules._add_reduce_grad(
                [schedules._Action.from_str(str(token)) for token in row],
                case.microbatches,
            )
            for rank, row in enumerate(case.rows)
        }
        expected = schedules._add_send_recv(
            reduced,
            lambda stage, c=case: c.rank_of_stage[stage],
            len(case.rank_of_stage),
        )
        assert lowered(case) == [
            [str(action) for action in expected[rank]] for rank in sorted(expected)
        ]


def test_what_torch_adds_beyond_that_are_unshards_and_reshards() -> None:
    """The claim of the module's docstring on ``_prepare_schedule_with_comms``."""
    schedules = pytest.importorskip("torch.distributed.pipelining.schedules")
    case = drawn(random.Random(1), "looped", "mixed")
    first = [schedules._Action.from_str(str(token)) for token in case.rows[0]]
    found = [str(action) for action in schedules._add_unshard_reshard(first)]
    plain = [str(token) for token in case.rows[0]]
    added = [text for text in found if "SHARD" in text]
    assert [text for text in found if text not in added] == plain
    stages = {token.stage for token in case.rows[0]}
    for stage in stages:
        assert f"{stage}UNSHARD" in added
        assert f"{stage}RESHARD" in added


def test_a_small_lowering_by_hand() -> None:
    case = Drawn(rows("0F0,0F1,0B0,0B1", "1F0,1B0,1F1,1I1,1W1"), (0, 1), 2)
    assert [",".join(row) for row in lowered(case)] == [
        "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0RECV_B1,0B1,0REDUCE_GRAD",
        "1RECV_F0,1F0,1RECV_F1,1B0,1SEND_B0,1F1,1I1,1SEND_B1,1W1,1REDUCE_GRAD",
    ]


def test_events_are_one_order_that_every_rank_pair_shares() -> None:
    for case in drawn_schedules():
        events = lower_rows(case.rows, case.rank_of_stage, case.microbatches).events
        for (rank, token), (peer, following) in pairwise(events):
            if token.kind.is_send:
                assert following.kind.is_receive
                assert following.microbatch == token.microbatch
                assert abs(following.stage - token.stage) == 1
                assert peer == case.rank_of_stage[following.stage] != rank
        transfers = [token for _, token in events if token.kind.is_transfer]
        cut = sum(a != b for a, b in pairwise(case.rank_of_stage))
        assert len(transfers) == 2 * 2 * cut * case.microbatches
        assert len(set(events)) == len(events)


def test_stages_of_one_rank_send_nothing() -> None:
    case = Drawn(rows("0F0,1F0,1B0,0B0"), (0, 0), 1)
    assert lowered(case) == [
        ["0F0", "1F0", "1B0", "1REDUCE_GRAD", "0B0", "0REDUCE_GRAD"]
    ]


@pytest.mark.parametrize(
    ("texts", "placement", "stop"),
    [
        # Each rank waits for what the other has behind its wait.
        (
            ("0F0,0B0,2F0,2B0", "1B0,1F0"),
            (0, 1, 0),
            "rank 1 stops at 1B0, which needs 1F0",
        ),
        (("1F0,0F0,1B0,0B0",), (0, 0), "rank 0 stops at 1F0, which needs 0F0"),
        (("0F0,0W0,0I0",), (0,), "rank 0 stops at 0W0, which needs 0I0"),
        (("0F0,0B1", "1F0,1B0"), (0, 1), "rank 0 stops at 0B1, which needs 0F1"),
    ],
)
def test_a_cyclic_order_is_refused_with_the_ops_that_wait(
    texts: tuple[str, ...], placement: tuple[int, ...], stop: str
) -> None:
    with pytest.raises(ExportError, match="the order is cyclic") as caught:
        lower_rows(rows(*texts), placement, 1)
    assert stop in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_ranks_that_wait_for_each_other_are_both_named() -> None:
    # 0B0 needs 1B0, which needs 1F0 after 1F1, which needs 0F1 after 0B0.
    with pytest.raises(ExportError) as caught:
        lower_rows(rows("0F0,0B0,0F1,0B1", "1F1,1B1,1F0,1B0"), (0, 1), 2)
    assert "rank 0 stops at 0B0, which needs 1B0" in str(caught.value)
    assert "rank 1 stops at 1F1, which needs 0F1" in str(caught.value)


def test_every_pair_of_ranks_sees_one_order() -> None:
    for case in drawn_schedules()[::5]:
        found = lower_rows(case.rows, case.rank_of_stage, case.microbatches).rows
        for a, b in combinations(range(len(found)), 2):
            seen = []
            for own, other in ((a, b), (b, a)):
                seen.append(
                    [
                        (token.kind.value[5:], token.microbatch, _sender(token))
                        for token in found[own]
                        if token.kind.is_transfer
                        and case.rank_of_stage[_other_stage(token)] == other
                    ]
                )
            assert seen[0] == seen[1]


def _other_stage(token: Token) -> int:
    onward = token.kind.value in ("SEND_F", "RECV_B")
    return token.stage + (1 if onward else -1)


def _sender(token: Token) -> int:
    return token.stage if token.kind.is_send else _other_stage(token)
