"""The runtimes that schedopt knows, each as a runtime profile."""

from __future__ import annotations

from dataclasses import replace

from schedopt.errors import RuntimeNameError
from schedopt.nearest import did_you_mean
from schedopt.runtimes.profile import (
    Evidence,
    FirstStage,
    Forms,
    MicrobatchOrder,
    Recompute,
    RuntimeProfile,
    Shape,
)

_ONE_PER_DEVICE = Shape("looped", 1, 1)
_LOOPED = Shape("looped", 2, None)
_V_OF_TWO = Shape("v", 2, 2)

_TORCH = RuntimeProfile(
    name="torch-csv",
    summary="torch.distributed.pipelining, _PipelineScheduleRuntime with a CSV",
    shapes=(),
    forms=Forms.PER_OP,
    order=MicrobatchOrder.LAST_FORWARDS,
    first_stage=FirstStage.ALL_IN_WEIGHT,
    last_stage_paired=False,
    recompute=Recompute.IN_WHOLE,
    communication="derived from the order, or listed by the exporter; asynchronous",
    extra_ops="UNSHARD and RESHARD slots with listed communication",
    deadlock="first in, first out on each pair of ranks, the same order on both ends",
    evidence=Evidence.EXECUTED,
    source="torch 2.13.0, torch/distributed/pipelining/schedules.py",
)

_TITAN = replace(
    _TORCH,
    name="torchtitan",
    summary="torchtitan, pipeline_parallel_schedule_csv",
    shapes=(_ONE_PER_DEVICE, _LOOPED, _V_OF_TWO),
    takes_one_device=False,
    communication="derived from the order; asynchronous",
    extra_ops="none",
    evidence=Evidence.READ,
    source="torchtitan/distributed/pipeline_parallel.py; the order runs in torch",
)

_PROFILES = (
    _TORCH,
    _TITAN,
    replace(
        _TITAN,
        name="automodel",
        summary="NeMo Automodel, pp_schedule_csv",
        source="components/distributed/pipelining/functional.py; the order runs in"
        " torch",
    ),
    RuntimeProfile(
        name="deepspeed",
        summary="DeepSpeed, a PipeSchedule of its pipeline engine",
        shapes=(_ONE_PER_DEVICE,),
        forms=Forms.WHOLE,
        order=MicrobatchOrder.ANY,
        first_stage=FirstStage.REAL,
        last_stage_paired=True,
        recompute=Recompute.IN_WHOLE,
        communication="listed by the exporter; sends and receives block",
        extra_ops="a new instruction class",
        deadlock="every send meets its receive",
        evidence=Evidence.EXECUTED,
        source="deepspeed 0.19.8, runtime/pipe/schedule.py and engine.py",
    ),
    RuntimeProfile(
        name="zero-bubble",
        summary="zero-bubble fork of Megatron-LM, lists of ScheduledNode",
        shapes=(_ONE_PER_DEVICE, _LOOPED, _V_OF_TWO),
        forms=Forms.PER_MICROBATCH,
        order=MicrobatchOrder.FIFO,
        first_stage=FirstStage.REAL,
        last_stage_paired=False,
        recompute=Recompute.AS_OP,
        communication="added by the runtime's passes; fused groups",
        extra_ops="none without a change of the runtime",
        deadlock="groups validated by the runtime's passes",
        evidence=Evidence.READ,
        source="zerobubble/scheduler/graph.py and passes; passes executed, not the"
        " runtime",
    ),
    RuntimeProfile(
        name="colossalai",
        summary="ColossalAI, scheduler_nodes of ZeroBubbleVPipeScheduler",
        shapes=(_V_OF_TWO,),
        forms=Forms.SPLIT,
        multiple_of_devices=True,
        order=MicrobatchOrder.FIFO,
        first_stage=FirstStage.ALL_IN_WEIGHT,
        last_stage_paired=False,
        recompute=Recompute.NONE,
        communication="listed by the exporter",
        extra_ops="none",
        deadlock="the same order on both ends of each pair of ranks",
        evidence=Evidence.READ,
        source="colossalai/pipeline/schedule/v_schedule.py and zero_bubble_pp.py",
    ),
    RuntimeProfile(
        name="mindspeed",
        summary="Ascend MindSpeed, autopipeline_perf_config.json",
        shapes=(_ONE_PER_DEVICE,),
        forms=Forms.WHOLE,
        order=MicrobatchOrder.FIFO,
        first_stage=FirstStage.REAL,
        last_stage_paired=False,
        recompute=Recompute.NONE,
        communication="derived from the order; forward and backward streams",
        extra_ops="none",
        deadlock="forward and backward transfers on streams of their own",
        evidence=Evidence.READ,
        source="MindSpeed, flexible_schedules.py",
    ),
    RuntimeProfile(
        name="jaxpp",
        summary="NVIDIA JaxPP, a BaseSchedule class",
        shapes=(),
        forms=Forms.PER_SCHEDULE,
        order=MicrobatchOrder.ANY,
        first_stage=FirstStage.ADJACENT,
        last_stage_paired=False,
        recompute=Recompute.IN_WHOLE,
        communication="derived from the data flow",
        extra_ops="none",
        deadlock="data flow",
        evidence=Evidence.READ,
        source="jaxpp/schedules.py",
    ),
)

PROFILES: dict[str, RuntimeProfile] = {p.name: p for p in _PROFILES}
"""Every runtime profile by its runtime's name."""


def profile_of(name: str) -> RuntimeProfile:
    """The runtime profile of a runtime.

    Raises
    ------
    RuntimeNameError
        If there is none of that name; the nearest one is suggested.
    """
    if name in PROFILES:
        return PROFILES[name]
    hint = did_you_mean(name.lower(), PROFILES)
    msg = f"{name[:40]!r} is not a runtime known here: {', '.join(PROFILES)}{hint}"
    raise RuntimeNameError(msg)
