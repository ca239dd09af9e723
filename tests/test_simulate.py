from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    ops,
    random_instance,
    random_order,
    serial_schedule,
    times,
    tiny_graph,
)

from schedopt.build import build_graph
from schedopt.errors import OrderError
from schedopt.instance import (
    Backward,
    Communication,
    CommunicationMode,
    Device,
    Instance,
    Placement,
    StageCost,
)
from schedopt.opgraph import OpGraph, Stream, StreamKind
from schedopt.ops import Op
from schedopt.schedule import Order, Schedule
from schedopt.simulate import dispatch, simulate, tails, with_memory_edges
from schedopt.verify import Rule, violations

seeds = st.integers(0, 2**32)
examples = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def compute(device: int) -> Stream:
    return Stream(StreamKind.COMPUTE, device)


def link(source: int, target: int) -> Stream:
    return Stream(StreamKind.P2P, source, target)


def order(*sequences: str, **links: str) -> Order:
    """Compute sequences by device, then links as ``to01="..."``."""
    found = {compute(device): ops(text) for device, text in enumerate(sequences)}
    for name, text in links.items():
        found[link(int(name[2]), int(name[3]))] = ops(text)
    return Order({stream: sequence for stream, sequence in found.items() if sequence})


def instance_of(random_seed: int, **options: object) -> Instance:
    return random_instance(random.Random(random_seed), **options)  # type: ignore[arg-type]  # passed through


def equal_stages(count: int, microbatches: int, **options: object) -> Instance:
    cost = StageCost(
        forward=1, backward_input=1, backward_weight=1, activation=1, output_bytes=1
    )
    return Instance(
        **{  # type: ignore[arg-type]  # a mapping of the right types
            "name": "equal",
            "stages": (cost,) * count,
            "devices": tuple(Device(name=f"gpu{d}") for d in range(count)),
            "microbatches": microbatches,
            "placement": Placement.LINEAR,
            "device_of_stage": tuple(range(count)),
            "backward": Backward.SPLIT,
            "memory_unit": "B",
            "resolution": 1,
            **options,
        }
    )


# Two stages, whole backward, one microbatch ahead: F 2, B 3, lag 1.
TWO_STAGES = tiny_graph(
    {"0F0": 2, "0F1": 2, "1F0": 2, "1F1": 2, "0B0": 3, "0B1": 3, "1B0": 3, "1B1": 3},
    [
        *((f"0F{j}", f"1F{j}", 1) for j in (0, 1)),
        *((f"1F{j}", f"1B{j}", 0) for j in (0, 1)),
        *((f"1B{j}", f"0B{j}", 1) for j in (0, 1)),
    ],
)


def test_every_op_starts_as_early_as_the_order_lets_it() -> None:
    # Device 1: F0 waits for 0F0 (ends 2) and the lag; B0 follows at 5; F1 follows B0,
    # not its data, at 8. Device 0: B0 waits for 1B0 (ends 8) and the lag; B1 for 1B1
    # (ends 13) and the lag.
    schedule = simulate(TWO_STAGES, order("0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"))
    assert schedule.start == times(
        _0F0=0, _0F1=2, _0B0=9, _0B1=14, _1F0=3, _1B0=5, _1F1=8, _1B1=10
    )
    assert schedule.makespan == 17


def test_memory_edges_make_ops_wait() -> None:
    sequences = order("0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1").sequences
    edge = (Op.parse("1B0"), Op.parse("0F1"))
    schedule = simulate(TWO_STAGES, Order(sequences, (edge,)))
    assert schedule.start[Op.parse("0F1")] == 8


def test_an_op_holds_all_its_streams_together() -> None:
    graph = tiny_graph(
        {"0F0": 2, "1F0": 5, "0SEND_F0": 1, "0F1": 1},
        devices={"0SEND_F0": (0, 1)},
    )
    data = graph.data[Op.parse("0SEND_F0")]
    both = data._replace(streams=(compute(0), compute(1)))
    graph.digraph.nodes[Op.parse("0SEND_F0")]["data"] = both
    graph = OpGraph(graph.digraph, (), (), graph.devices, graph.units)
    schedule = simulate(graph, order("0F0 0SEND_F0 0F1", "1F0 0SEND_F0"))
    assert schedule.start == times(_0F0=0, _1F0=0, _0SEND_F0=5, _0F1=6)


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        (("0F0 0F1 0B0 0B1 7F0", ""), "7F0 is not an op of this instance"),
        (("0F0 0F1 0F0", ""), "0F0 stands twice on compute@0; it runs once"),
        (("0F0 1F0", ""), "1F0 stands on compute@0 but runs on compute@1"),
        (
            ("0F0 0F1 0B0 0B1", "1F0 1B0 1B1"),
            "1F1 is missing; put it into the sequence of compute@1",
        ),
    ],
)
def test_orders_that_are_not_of_the_graph(
    sequences: tuple[str, str], message: str
) -> None:
    with pytest.raises(OrderError) as caught:
        simulate(TWO_STAGES, order(*sequences))
    assert str(caught.value) == message


def test_an_op_must_stand_on_all_its_streams() -> None:
    graph = build_graph(equal_stages(2, 1, communication=_communication("blocking")))
    done = dispatch(graph, {})
    sequence = tuple(
        op for op in done.sequences[compute(1)] if op != Op.parse("0SEND_F0")
    )
    with pytest.raises(OrderError, match=r"0SEND_F0 is missing from .* compute@1"):
        simulate(graph, Order({**done.sequences, compute(1): sequence}))


def test_a_memory_edge_must_name_ops_of_the_order() -> None:
    sequences = order("0F0 0F1 0B0 0B1", "1F0 1F1 1B0 1B1").sequences
    edge = (Op.parse("1B0"), Op.parse("5F5"))
    with pytest.raises(OrderError, match="a memory edge names 5F5"):
        simulate(TWO_STAGES, Order(sequences, (edge,)))


ALTERNATIVES = tiny_graph(
    {"0F0": 1, "0B0": 2, "0I0": 1, "0W0": 1},
    [("0F0", "0B0", 0), ("0F0", "0I0", 0), ("0I0", "0W0", 0)],
    literals={"0B0": "whole", "0I0": "split", "0W0": "split"},
    choices=[("whole", "split")],
)


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("0F0", "choice 'choice 0': no alternative is present; add 0B0 or 0I0 + 0W0"),
        (
            "0F0 0B0 0I0 0W0",
            "choice 'choice 0': 0B0 and 0I0 + 0W0 are both present; keep one of them",
        ),
        ("0F0 0I0", "0W0 is missing; put it into the sequence of compute@0"),
    ],
)
def test_exactly_one_alternative_is_in_an_order(sequence: str, message: str) -> None:
    with pytest.raises(OrderError) as caught:
        simulate(ALTERNATIVES, order(sequence))
    assert str(caught.value) == message


def test_either_alternative_can_be_replayed() -> None:
    assert simulate(ALTERNATIVES, order("0F0 0B0")).makespan == 3
    assert simulate(ALTERNATIVES, order("0F0 0I0 0W0")).makespan == 3


def test_an_alternative_without_ops_is_taken_where_no_other_is() -> None:
    graph = tiny_graph(
        {"0F0": 1, "0R0": 2},
        [("0F0", "0R0", 0)],
        literals={"0R0": "recompute"},
        choices=[("recompute", "keep")],
    )
    assert simulate(graph, order("0F0")).makespan == 1
    assert simulate(graph, order("0F0 0R0")).makespan == 3


def test_a_deadlock_is_named_op_by_op() -> None:
    with pytest.raises(OrderError) as caught:
        simulate(TWO_STAGES, order("0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1"))
    assert str(caught.value) == (
        "the order deadlocks: 0F1 waits for 0B0 (before it on compute@0), 0B0 waits for"
        " 1B0 (data), 1B0 waits for 1F1 (before it on compute@1), 1F1 waits for 0F1"
        " (data)"
    )


def test_a_deadlock_through_memory_is_named() -> None:
    sequences = order("0F0 0F1 0B0 0B1", "1F0 1F1 1B0 1B1").sequences
    edge = (Op.parse("0B0"), Op.parse("0F0"))
    with pytest.raises(OrderError, match=r"0F0 waits for 0B0 \(memory\)"):
        simulate(TWO_STAGES, Order(sequences, (edge,)))


def test_the_shortest_cycle_is_named_and_long_ones_are_cut() -> None:
    # A cycle of two ops beside one of forty.
    durations = {f"0F{j}": 1 for j in range(42)}
    edges = [(f"0F{j}", f"0F{(j + 1) % 40}", 0) for j in range(40)]
    devices = {f"0F{j}": (j,) for j in range(42)}
    separate = {compute(j): ops(f"0F{j}") for j in range(42)}
    long = tiny_graph(durations, edges, devices=devices, limits=(None,) * 42)
    with pytest.raises(OrderError, match=r"\.\.\. 16 more \.\.\."):
        simulate(long, Order(separate))
    both = tiny_graph(
        durations,
        [*edges, ("0F40", "0F41", 0), ("0F41", "0F40", 0)],
        devices=devices,
        limits=(None,) * 42,
    )
    with pytest.raises(OrderError) as caught:
        simulate(both, Order(separate))
    assert str(caught.value) == (
        "the order deadlocks: 0F40 waits for 0F41 (data), 0F41 waits for 0F40 (data)"
    )


def _step_by_step(graph: OpGraph, given: Order) -> dict[Op, int]:
    """Another simulator: time steps from event to event, streams take their next op."""
    queues = {stream: list(sequence) for stream, sequence in given.sequences.items()}
    present = {op for queue in queues.values() for op in queue}
    end: dict[Op, int] = {}
    start: dict[Op, int] = {}
    waits: dict[Op, list[tuple[Op, int]]] = {op: [] for op in present}
    for before, after, lag in graph.edges:
        if before in present and after in present:
            waits[after].append((before, lag))
    for before, after in given.memory_edges:
        waits[after].append((before, 0))
    time = 0
    while queues:
        started = False
        for stream in list(queues):
            if stream not in queues:
                continue
            op = queues[stream][0]
            streams = graph.data[op].streams
            mine = [stream for stream in streams if queues[stream][0] == op]
            ready = all(b in end and end[b] + lag <= time for b, lag in waits[op])
            idle = all(
                end[o] <= time
                for o in start
                if not set(graph.data[o].streams).isdisjoint(streams)
            )
            if len(mine) == len(streams) and ready and idle:
                started = True
                start[op], end[op] = time, time + graph.data[op].duration
                for own in streams:
                    queues[own].pop(0)
                    if not queues[own]:
                        del queues[own]
        if not started:
            moments = set(end.values())
            moments |= {
                end[b] + lag for w in waits.values() for b, lag in w if b in end
            }
            time = min(moment for moment in moments if moment > time)
    return start


@examples
@given(seeds)
def test_two_simulators_agree(seed: int) -> None:
    rng = random.Random(seed)
    graph = build_graph(random_instance(rng, zeros=seed % 3 == 0))
    for within_memory in (False, True):
        given_order = random_order(graph, rng, within_memory=within_memory)
        assert dict(simulate(graph, given_order).start) == _step_by_step(
            graph, given_order
        )


@examples
@given(seeds)
def test_tails_are_the_starts_of_the_order_backwards(seed: int) -> None:
    rng = random.Random(seed)
    graph = build_graph(random_instance(rng, zeros=seed % 3 == 0))
    given_order = with_memory_edges(
        simulate(graph, random_order(graph, rng, within_memory=True))
    )
    backwards = OpGraph(
        graph.digraph.reverse(), (), graph.choices, graph.devices, graph.units
    )
    order_backwards = Order(
        {stream: ops[::-1] for stream, ops in given_order.sequences.items()},
        tuple((after, before) for before, after in given_order.memory_edges),
    )
    assert tails(graph, given_order) == simulate(backwards, order_backwards).start


@examples
@given(seeds)
def test_replays_keep_every_rule_but_memory(seed: int) -> None:
    rng = random.Random(seed)
    graph = build_graph(random_instance(rng, zeros=seed % 3 == 0))
    schedule = simulate(graph, random_order(graph, rng))
    found = {violation.rule for violation in violations(graph, schedule.start)}
    assert found <= {Rule.MEMORY}


@examples
@given(seeds)
def test_replaying_the_order_of_a_replay_changes_nothing(seed: int) -> None:
    rng = random.Random(seed)
    graph = build_graph(random_instance(rng))
    schedule = simulate(graph, random_order(graph, rng))
    again = simulate(graph, schedule.order)
    if all(data.duration for data in graph.data.values()):
        assert again.start == schedule.start
    # Ops of no duration may come to stand before what they followed at the same time.
    assert all(again.start[op] <= time for op, time in schedule.start.items())


def test_98304_ops_in_gpipe_order() -> None:
    # F, I and W of 1 without communication, all forwards first, then I and W in turn.
    # The last stage has its forwards done at P-1+M; the first gradient reaches stage 0
    # after P-1 more I; then stage 0 alternates I and W without a pause.
    stages, microbatches = 64, 512
    graph = build_graph(equal_stages(stages, microbatches))
    assert len(graph.ops) == 98_304
    sequences = {
        compute(s): (
            *(Op.parse(f"{s}F{j}") for j in range(microbatches)),
            *(Op.parse(f"{s}{k}{j}") for j in range(microbatches) for k in "IW"),
        )
        for s in range(stages)
    }
    schedule = simulate(graph, dispatch(graph, sequences))
    assert schedule.makespan == 3 * microbatches + 2 * (stages - 1)
    assert schedule.device_spans == tuple(
        3 * microbatches + 2 * (stages - 1 - s) for s in range(stages)
    )
    assert schedule.work == len(graph.ops)
    assert schedule.peak_memory == (microbatches,) * stages
    assert violations(graph, schedule.start) == ()


# -- dispatch -----------------------------------------------------------------


def _communication(mode: str, latency: int = 2, buffers: bool = False) -> Communication:
    return Communication(
        mode=CommunicationMode(mode), latency=latency, transfer_buffers=buffers
    )


def test_complete_sequences_come_back_as_they_are() -> None:
    given_order = order("0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1")
    assert dispatch(TWO_STAGES, given_order.sequences) == given_order


def test_transfers_queue_on_a_link_as_their_data_is_made() -> None:
    # Transfers take 3, forwards 1: the second and third wait for the link. 0F2 was put
    # before 0F1, so its data leaves first.
    instance = equal_stages(2, 3, communication=_communication("link", 3))
    graph = build_graph(instance)
    given_order = dispatch(
        graph,
        {
            compute(0): ops("0F0 0F2 0F1 0I0 0W0 0I2 0W2 0I1 0W1"),
            compute(1): ops("1F0 1F2 1F1 1I0 1W0 1I2 1W2 1I1 1W1"),
        },
    )
    assert given_order.sequences[link(0, 1)] == ops("0SEND_F0 0SEND_F2 0SEND_F1")
    start = simulate(graph, given_order).start
    assert [start[op] for op in given_order.sequences[link(0, 1)]] == [1, 4, 7]
    assert start[Op.parse("1F1")] == 10


def test_a_blocking_transfer_goes_before_what_the_sender_does_next() -> None:
    instance = equal_stages(2, 2, communication=_communication("blocking", 2))
    graph = build_graph(instance)
    given_order = dispatch(
        graph,
        {
            compute(0): ops("0F0 0F1 0I0 0W0 0I1 0W1"),
            compute(1): ops("1F0 1I0 1F1 1I1 1W0 1W1"),
        },
    )
    # At 1 the transfer and 0F1 are ready: the transfer goes first. 1F0 ends at 4, when
    # 0F1 does: its transfer is ready together with 1I0 and goes first.
    assert given_order.sequences == {
        compute(0): ops("0F0 0SEND_F0 0F1 0SEND_F1 1SEND_B0 0I0 0W0 1SEND_B1 0I1 0W1"),
        compute(1): ops("0SEND_F0 1F0 0SEND_F1 1I0 1SEND_B0 1F1 1I1 1SEND_B1 1W0 1W1"),
    }


def test_the_other_op_of_a_split_is_dispatched_too() -> None:
    given_order = dispatch(ALTERNATIVES, {compute(0): ops("0F0 0I0")})
    assert given_order == order("0F0 0I0 0W0")


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("0F0", "no alternative is present"),
        ("0F0 0B0 0W0", "both present"),
        ("0F0 0F0", "twice"),
        ("0F9 0B0", "0F9 is not an op"),
    ],
)
def test_sequences_that_cannot_be_completed(sequence: str, message: str) -> None:
    with pytest.raises(OrderError, match=message):
        dispatch(ALTERNATIVES, {compute(0): ops(sequence)})


@pytest.mark.parametrize("mode", ["lag", "link", "blocking"])
def test_dispatch_names_the_deadlock_of_given_sequences(mode: str) -> None:
    graph = build_graph(equal_stages(2, 1, communication=_communication(mode)))
    sequences = {compute(0): ops("0I0 0F0 0W0"), compute(1): ops("1F0 1I0 1W0")}
    with pytest.raises(OrderError, match=r"deadlocks: .*0F0 waits for 0I0 \(before"):
        dispatch(graph, sequences)


@examples
@given(seeds)
def test_dispatch_completes_any_order_of_the_compute_ops(seed: int) -> None:
    rng = random.Random(seed)
    graph = build_graph(random_instance(rng, max_ops=40, zeros=seed % 3 == 0))
    full = random_order(graph, rng)
    partial = {
        stream: tuple(op for op in sequence if op.kind.is_compute)
        for stream, sequence in full.sequences.items()
        if stream.kind is StreamKind.COMPUTE
    }
    done = dispatch(graph, partial)
    for stream, sequence in partial.items():
        kept = [op for op in done.sequences[stream] if op in set(sequence)]
        assert tuple(kept) == sequence
    found = violations(graph, simulate(graph, done).start)
    assert {violation.rule for violation in found} <= {Rule.MEMORY}
    assert dispatch(graph, done.sequences).sequences == done.sequences


@examples
@given(seeds)
def test_dispatch_takes_ops_as_their_data_is_ready(seed: int) -> None:
    rng = random.Random(seed)
    graph = build_graph(random_instance(rng, backwards=(Backward.SPLIT,)))
    done = dispatch(graph, {})
    schedule = simulate(graph, done)
    for sequence in done.sequences.values():
        ready = [
            max((schedule.end(b) + lag for b, lag in graph.predecessors(op)), default=0)
            for op in sequence
        ]
        assert ready == sorted(ready)


# -- memory edges -------------------------------------------------------------


def test_no_memory_edges_where_the_order_decides() -> None:
    for seed in range(60):
        rng = random.Random(seed)
        instance = random_instance(rng, modes=(CommunicationMode.LAG,))
        graph = build_graph(instance)
        schedule = serial_schedule(graph, rng)
        given_order = with_memory_edges(schedule)
        assert given_order.memory_edges == ()
        assert given_order.sequences == schedule.order.sequences
        assert violations(graph, simulate(graph, given_order).start) == ()


def test_a_transfer_waits_for_the_memory_it_needs() -> None:
    # Device 1 has room for one incoming buffer of 1 beside 1F0's 2. The second transfer
    # could run from 3 to 4, while 1F0 still holds the first buffer (until 7); in the
    # schedule it waits.
    graph = tiny_graph(
        {"0F0": 1, "0F1": 1, "0SEND_F0": 1, "0SEND_F1": 1, "1F0": 5, "1F1": 5},
        [
            *((f"0F{j}", f"0SEND_F{j}", 0) for j in (0, 1)),
            *((f"0SEND_F{j}", f"1F{j}", 0) for j in (0, 1)),
        ],
        devices={"0SEND_F0": (0, 1), "0SEND_F1": (0, 1)},
        limits=(None, 1, None),
    )
    buffers = tuple(
        buffer._replace(device=1)
        for buffer in tiny_graph(
            {"0SEND_F0": 1, "0SEND_F1": 1, "1F0": 5, "1F1": 5},
            buffers=[(1, "0SEND_F0", ("1F0",)), (1, "0SEND_F1", ("1F1",))],
            devices={"0SEND_F0": (0, 1), "0SEND_F1": (0, 1)},
        ).buffers
    )
    graph = replace(graph, buffers=buffers)
    start = times(_0F0=0, _0F1=1, _0SEND_F0=1, _1F0=2, _0SEND_F1=8, _1F1=10)
    given_order = with_memory_edges(Schedule(graph, start))
    assert given_order.memory_edges == ((Op.parse("1F0"), Op.parse("0SEND_F1")),)
    replay = simulate(graph, given_order)
    assert replay.start == times(
        _0F0=0, _0F1=1, _0SEND_F0=1, _1F0=2, _0SEND_F1=7, _1F1=8
    )
    without = simulate(graph, Order(given_order.sequences))
    assert without.start[Op.parse("0SEND_F1")] == 2
    assert [v.rule for v in violations(graph, without.start)] == [Rule.MEMORY]


def _link_instance(rng: random.Random) -> Instance:
    while True:
        instance = random_instance(rng, max_ops=36, modes=(CommunicationMode.LINK,))
        if len(instance.devices) > 1 and instance.communication.transfer_buffers:
            return instance


def test_replays_with_memory_edges_fit_and_are_no_later() -> None:
    needed = with_edges = 0
    for seed in range(150):
        rng = random.Random(seed)
        graph = build_graph(_link_instance(rng))
        schedule = serial_schedule(graph, rng)
        assert violations(graph, schedule.start) == ()
        given_order = with_memory_edges(schedule)
        replay = simulate(graph, given_order)
        assert violations(graph, replay.start) == ()
        assert all(replay.start[op] <= time for op, time in schedule.start.items())
        # Whatever the durations do: the same order on other durations fits as well.
        other = _other_durations(graph, rng)
        assert violations(other, simulate(other, given_order).start) == ()
        with_edges += bool(given_order.memory_edges)
        without = simulate(graph, Order(given_order.sequences))
        needed += bool(violations(graph, without.start))
    assert with_edges >= 30
    assert needed >= 10


def _other_durations(graph: OpGraph, rng: random.Random) -> OpGraph:
    digraph = graph.digraph.copy()
    for op, data in graph.data.items():
        duration = rng.randint(1, 20) if data.duration else 0
        digraph.nodes[op]["data"] = data._replace(duration=duration)
    return replace(graph, digraph=digraph)


def test_replays_of_replays_keep_their_memory_edges() -> None:
    for seed in range(40):
        rng = random.Random(seed)
        graph = build_graph(_link_instance(rng))
        first = simulate(graph, with_memory_edges(serial_schedule(graph, rng)))
        second = simulate(graph, with_memory_edges(first))
        assert violations(graph, second.start) == ()
        assert all(second.start[op] <= time for op, time in first.start.items())


def test_a_schedule_over_the_limit_has_no_memory_edges() -> None:
    graph = tiny_graph(
        {"0SEND_F0": 2, "0SEND_F1": 2},
        buffers=[(1, "0SEND_F0", ()), (1, "0SEND_F1", ())],
        devices={"0SEND_F0": (0, 1), "0SEND_F1": (0, 2)},
        limits=(1, None, None),
    )
    fits = Schedule(graph, times(_0SEND_F0=0, _0SEND_F1=2))
    assert with_memory_edges(fits).memory_edges == (ops("0SEND_F0 0SEND_F1"),)
    full = Schedule(graph, times(_0SEND_F0=0, _0SEND_F1=1))
    with pytest.raises(
        OrderError, match="gpu0 within its limit: at 1 us, when 0SEND_F1"
    ):
        with_memory_edges(full)


def test_transfers_without_duration_free_memory_for_each_other() -> None:
    # At 5 one transfer takes the buffer that the other, which takes no time either,
    # lets go: the order has to run the releasing one first.
    graph = tiny_graph(
        {"0SEND_F0": 0, "0SEND_F1": 0, "0F1": 5, "1F0": 3},
        buffers=[(1, "0F1", ("0SEND_F1",)), (1, "0SEND_F0", ("1F0",))],
        devices={"0SEND_F0": (0, 1), "0SEND_F1": (0, 2)},
        limits=(1, None, None),
    )
    start = times(_0F1=0, _0SEND_F0=5, _0SEND_F1=5, _1F0=5)
    given_order = with_memory_edges(Schedule(graph, start))
    assert given_order.memory_edges == (ops("0SEND_F1 0SEND_F0"),)
