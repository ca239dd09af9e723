"""Instances to and from files and documents."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from typing import Any

from schedopt.errors import FormatError, InstanceError
from schedopt.formats.complaints import Complaint, line, one_line, show
from schedopt.formats.documents import defaults_of, number, optional, without
from schedopt.formats.instance_model import (
    INSTANCE_SCHEMA,
    CommunicationFields,
    CostFields,
    EqualStagesFields,
    InstanceFields,
    StageFields,
)
from schedopt.formats.instance_rules import rule_complaints
from schedopt.formats.instance_runtime import recomputed_stages
from schedopt.formats.instance_shape import (
    backward_form,
    default_device_name,
    devices_of_stages,
    stage_count,
)
from schedopt.formats.instance_sizes import size_complaints
from schedopt.formats.kfac_file import (
    kfac_document,
    kfac_of,
    module_document,
    module_of,
)
from schedopt.formats.limits import Limits
from schedopt.formats.model import checked
from schedopt.formats.reading import read_document
from schedopt.instance import (
    Communication,
    Device,
    Instance,
    Link,
    Placement,
    StageCost,
)
from schedopt.runtimes import profile_of

DEFAULT_LIMITS = Limits()


def load_instance(
    path: str | os.PathLike[str],
    limits: Limits = DEFAULT_LIMITS,
    *,
    runtime: str | None = None,
) -> Instance:
    """Read an instance from a JSON or YAML file.

    A ``runtime`` takes the place of the one that the file names; empty means none.

    Raises
    ------
    FormatError
        If the file is not a document of this format.
    InstanceError
        If a field is missing, unknown or breaks a rule.
    """
    document = read_document(path, limits)
    if runtime is not None and isinstance(document, dict):
        name = profile_of(runtime).name if runtime else None
        document = document | {"runtime": name}
    return instance_from_document(document, os.fspath(path), limits)


def with_runtime(instance: Instance, runtime: str) -> Instance:
    """The same instance under the rules of a runtime; empty: under none.

    Raises
    ------
    RuntimeNameError
        If there is no such runtime.
    InstanceError
        If it can execute no schedule of the instance; the message says what to change.
    """
    if not runtime:
        return replace(instance, runtime="")
    document = instance_document(replace(instance, runtime=profile_of(runtime).name))
    return instance_from_document(document, instance.name, Limits(max_ops=10**9))


def instance_from_document(
    document: object, where: str, limits: Limits = DEFAULT_LIMITS
) -> Instance:
    """Read an instance from a document; ``where`` names it in messages.

    Raises
    ------
    FormatError
        If it is not a document of this format.
    InstanceError
        If a field is missing, unknown or breaks a rule.
    """
    mapping = require_schema(document, where, INSTANCE_SCHEMA)
    fields, complaints = checked(InstanceFields, mapping)
    if fields is not None:
        complaints = instance_complaints(fields, limits)
        if not complaints:
            return instance_of(fields)
    raise InstanceError(line(where, complaints, mapping))


def instance_complaints(fields: InstanceFields, limits: Limits) -> list[Complaint]:
    """The rules between well-formed fields that an instance breaks."""
    return list(size_complaints(fields, limits)) or list(rule_complaints(fields))


def require_schema(document: object, where: str, known: str) -> dict[str, Any]:
    """The document as a mapping that says it is of the known format."""
    if not isinstance(document, dict):
        found = "nothing" if document is None else show(document)
        msg = f"{one_line(where)}: must be a mapping of fields, found {found}"
        raise FormatError(msg)
    for key in document:
        if not isinstance(key, str):
            msg = f"{one_line(where)}: {show(key)}: a field's name must be text"
            raise FormatError(msg)
    if document.get("schema") == known:
        return document
    if "schema" not in document:
        complaint = Complaint(("schema",), "", f"is missing; add schema: {known}")
    else:
        complaint = Complaint(
            ("schema",),
            show(document["schema"]),
            f"is not a format known here; expected {known}"
            + _how_to_get(known, document["schema"]),
        )
    raise FormatError(line(where, [complaint], document))


def _how_to_get(known: str, found: object) -> str:
    """What makes the file that is wanted of the one that is there, if anything."""
    if found == INSTANCE_SCHEMA and known.startswith("schedopt/schedule/"):
        return ", which schedopt solve makes of this instance"
    return ""


def instance_document(instance: Instance) -> dict[str, Any]:
    """The canonical document of an instance, which reads back to an equal one.

    Devices and stages are lists, fields that have their default are left out, and
    whole numbers are integers.
    """
    explicit = instance.placement is Placement.EXPLICIT
    document: dict[str, Any] = {
        "schema": INSTANCE_SCHEMA,
        "name": instance.name,
        "source": instance.source,
        "time_unit": instance.time_unit,
        "memory_unit": instance.memory_unit,
        "microbatches": instance.microbatches,
        "devices": [
            _device_document(index, device)
            for index, device in enumerate(instance.devices)
        ],
        "placement": (
            list(instance.device_of_stage) if explicit else instance.placement.value
        ),
        "backward": instance.backward.value,
        "communication": _communication_document(instance.communication),
        "stages": [_stage_document(stage) for stage in instance.stages],
        "recompute": sorted(instance.recompute),
        "microbatch_scale": [number(scale) for scale in instance.microbatch_scale],
        "resolution": number(instance.resolution),
        "objective": instance.objective.value,
        "runtime": instance.runtime or None,
        "steps": instance.steps,
        "kfac": None if instance.kfac is None else kfac_document(instance.kfac),
    }
    left_out: dict[str, Any] = {
        "source": "",
        "communication": {},
        "recompute": [],
        "microbatch_scale": [],
        "runtime": None,
        "steps": 1,
        "kfac": None,
    }
    return without(document, left_out)


def instance_sha256(instance: Instance) -> str:
    """What identifies the problem: a hash of everything but its name and source."""
    document = instance_document(instance)
    problem = {
        key: value for key, value in document.items() if key not in ("name", "source")
    }
    text = json.dumps(problem, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def instance_of(fields: InstanceFields) -> Instance:
    """The instance that checked fields describe."""
    placement = fields.placement
    return Instance(
        name=fields.name,
        stages=_stages(fields),
        devices=_devices(fields),
        microbatches=fields.microbatches,
        placement=Placement.EXPLICIT if isinstance(placement, list) else placement,
        device_of_stage=devices_of_stages(fields),
        backward=backward_form(fields),
        communication=_communication(fields.communication),
        recompute=recomputed_stages(fields, stage_count(fields)),
        microbatch_scale=tuple(fields.microbatch_scale),
        time_unit=fields.time_unit,
        memory_unit=fields.memory_unit,
        resolution=fields.resolution,
        objective=fields.objective,
        source=fields.source,
        runtime=fields.runtime or "",
        steps=fields.steps,
        kfac=None if fields.kfac is None else kfac_of(fields.kfac),
    )


_COSTS = tuple(name for name in CostFields.model_fields if name != "modules")


def _cost(fields: CostFields) -> StageCost:
    parts = fields.parts if isinstance(fields, StageFields) else []
    costs = {name: getattr(fields, name) for name in _COSTS}
    return StageCost(
        **costs,
        parts=tuple(map(_cost, parts)),
        modules=tuple(map(module_of, fields.modules)),
    )


def _stages(fields: InstanceFields) -> tuple[StageCost, ...]:
    if isinstance(fields.stages, EqualStagesFields):
        return (_cost(fields.stages),) * fields.stages.count
    return tuple(map(_cost, fields.stages))


def _devices(fields: InstanceFields) -> tuple[Device, ...]:
    if isinstance(fields.devices, int):
        return tuple(
            Device(name=default_device_name(index), memory_limit=fields.memory_limit)
            for index in range(fields.devices)
        )
    return tuple(
        Device(
            name=device.name or default_device_name(index),
            memory_limit=(
                device.memory_limit
                if "memory_limit" in device.model_fields_set
                else fields.memory_limit
            ),
            static_memory=device.static_memory,
            speed=device.speed,
        )
        for index, device in enumerate(fields.devices)
    )


def _communication(fields: CommunicationFields) -> Communication:
    return Communication(
        mode=fields.mode,
        latency=fields.latency,
        bandwidth=fields.bandwidth,
        links=tuple(
            Link(
                source=link.source,
                target=link.target,
                latency=link.latency,
                bandwidth=link.bandwidth,
            )
            for link in fields.links
        ),
        transfer_buffers=fields.transfer_buffers,
    )


def _device_document(index: int, device: Device) -> dict[str, Any]:
    document = {
        "name": device.name,
        "memory_limit": optional(device.memory_limit),
        "static_memory": number(device.static_memory),
        "speed": number(device.speed),
    }
    defaults = {
        "name": default_device_name(index),
        "memory_limit": None,
        "static_memory": 0,
        "speed": 1,
    }
    return without(document, defaults)


def _communication_document(communication: Communication) -> dict[str, Any]:
    document: dict[str, Any] = {
        "mode": communication.mode.value,
        "latency": number(communication.latency),
        "bandwidth": optional(communication.bandwidth),
        "links": [_link_document(link) for link in communication.links],
        "transfer_buffers": communication.transfer_buffers,
    }
    defaults: dict[str, Any] = {
        "mode": "lag",
        "latency": 0,
        "bandwidth": None,
        "links": [],
        "transfer_buffers": False,
    }
    return without(document, defaults)


def _link_document(link: Link) -> dict[str, Any]:
    document = {
        "from": link.source,
        "to": link.target,
        "latency": optional(link.latency),
        "bandwidth": optional(link.bandwidth),
    }
    return without(document, {"latency": None, "bandwidth": None})


def _stage_document(stage: StageCost) -> dict[str, Any]:
    document: dict[str, Any] = {name: optional(getattr(stage, name)) for name in _COSTS}
    document["parts"] = [_stage_document(part) for part in stage.parts]
    document["modules"] = [module_document(module) for module in stage.modules]
    return without(document, defaults_of(StageFields))
