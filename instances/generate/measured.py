"""Pipelines whose stages were measured here: ``python -m instances.generate.measured``.

Reads what ``schedopt profile`` printed on a GPU, in ``results/measured/``.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from instances.generate.draft import MEBIBYTE, WIDTH, Number
from schedopt.formats import instance_from_document
from schedopt.instance import Instance

ROOT = Path(__file__).resolve().parent.parent.parent
PROFILES = ROOT / "results" / "measured"

TIGHT = {
    "bert-large-p8": (0.8,),
    "gpt-1.3b-p8": (0.75,),
    "gpt-6.7b-p8": (0.5,),
    "gpt-6.7b-p8-looped": (0.5,),
    "gpt-13b-p8": (0.75, 0.5),
}
"""Also with these parts of what 1F1B needs; with less, the last stage may not fit."""

NOT_PRECONDITIONED = "head.output"
"""Its factor B is as wide as the vocabulary."""

FOR_NCCL = 1024
"""MiB, for NCCL's buffers; assumed."""

Document = dict[str, Any]


def files() -> dict[Path, str]:
    """Every instance, as text by path."""
    checks = json.loads((PROFILES / "checks.json").read_text(encoding="utf-8"))
    hardware, *_ = checks["device"].split(",")
    folder = ROOT / "instances" / "measured" / hardware.split()[-1].lower()
    return {
        folder / f"{document['name']}.yaml": _text(notes, document)
        for path in sorted(PROFILES.glob("*.profile.json"))
        for notes, document in _instances(
            json.loads(path.read_text(encoding="utf-8")), checks, hardware
        )
    }


def needs_of_one_f_one_b(instance: Instance) -> list[float]:
    """The memory that 1F1B needs on each device, all stages of a device run as one."""
    needs = [0.0] * len(instance.devices)
    for stage, device in zip(instance.stages, instance.device_of_stage, strict=True):
        held = min(instance.microbatches, len(needs) - device)
        needs[device] += stage.static_memory + held * stage.activation
    return needs


def _instances(
    profile: Document, checks: Document, hardware: str
) -> Iterator[tuple[list[str], Document]]:
    """A profile's instances, each with the paragraphs at its top."""
    document = profile["instance"]
    communication = {
        name: int(value) if name in ("latency", "bandwidth") else value
        for name, value in document["communication"].items()
    }
    notes = [_about(profile, hardware), _what_is_measured(communication)]
    if profile["kfac"]:
        _drop_the_head(profile)
        notes.append(
            "modules: K-FAC's work of the blocks' linear layers, measured too. The"
            " output layer has none: it is taken to be left to the first-order"
            " optimizer."
        )
    stages = document.pop("stages")
    general = {
        **document,
        "source": f"{document['source']}; {checks['date']}",
        "communication": communication,
    }
    instance = instance_from_document({**general, "stages": stages}, document["name"])
    capacity = _capacity(checks)
    limits = [int(capacity - kept / MEBIBYTE) for kept in _kept_by_torch(instance)]
    limit_note = (
        f"memory_limit: the memory of an {hardware} less the CUDA context, cuBLAS's"
        " workspaces and what torch's allocator gives out beyond what is asked for (as"
        f" measured), {FOR_NCCL} MiB for NCCL (assumed), and what torch's runtime keeps"
        " on the device for every microbatch (docs/runtimes/measuring.md)."
    )
    devices = [{"memory_limit": limit} for limit in limits]
    yield [*notes, limit_note], {**general, "devices": devices, "stages": stages}
    need = max(needs_of_one_f_one_b(instance))
    for part in TIGHT.get(document["name"], ()):
        yield (
            [*notes, f"memory_limit: {part} of what 1F1B needs on the fullest device."],
            {
                **general,
                "name": f"{document['name']}-limit{part}",
                "memory_limit": int(part * need),
                "stages": stages,
            },
        )


def _about(profile: Document, hardware: str) -> str:
    model, document = profile["model"], profile["instance"]
    return (
        f"A GPT of {model['layers']} layers, width {model['hidden']}, {model['heads']}"
        f" heads and a vocabulary of {model['vocabulary']}, cut into {model['stages']}"
        f" stages on {document['devices']} {hardware}: {document['microbatches']}"
        f" microbatches of {model['microbatch_size']} sequences of {model['sequence']}"
        f" tokens, {model['dtype']}. See instances/README.md."
    )


def _what_is_measured(communication: Document) -> str:
    return (
        "us, MiB, output_bytes in bytes. Measured on one GPU: times, activation,"
        " activation_until_input, input_gradient, output_bytes. static_memory: weights,"
        " gradients and the most that an op takes while it runs, measured, and the"
        " optimizer's state, 12 bytes per parameter. Assumed: latency"
        f" {communication['latency']} us and bandwidth"
        f" {communication['bandwidth'] / 1e9:g} GB/s between any two devices."
    )


def _drop_the_head(profile: Document) -> None:
    """Leave the output layer out of the K-FAC work."""
    (head,) = (k for k in profile["kfac"] if k["layer"] == NOT_PRECONDITIONED)
    for number in head["stages"]:
        stage = profile["instance"]["stages"][number]
        stage["modules"] = [
            module for module in stage["modules"] if module["name"] != head["layer"]
        ]
        rest = stage["precondition"] - head["precondition"]["median"]
        stage["precondition"] = round(rest, 3)


def _capacity(checks: Document) -> Number:
    """What ops can ask for on a GPU, MiB."""
    beyond = max(one["given"] / one["asked"] for one in checks["rounding"])
    size = checks["total"] - checks["context"] - checks["held_by_libraries"]
    return size / MEBIBYTE / beyond - FOR_NCCL


def _kept_by_torch(instance: Instance) -> list[int]:
    """Bytes on each device: what stages receive, and gradients of their inputs."""
    kept = [0] * len(instance.devices)
    for number, device in enumerate(instance.device_of_stage):
        before = instance.stages[number - 1].output_bytes if number else 0
        after = instance.stages[number].output_bytes
        kept[device] += instance.microbatches * (2 * before + after)
    return kept


def _text(notes: list[str], document: Document) -> str:
    comment = "\n#\n".join(
        textwrap.fill(note, WIDTH, initial_indent="# ", subsequent_indent="# ")
        for note in notes
    )
    text = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=88)
    return f"{comment}\n{text}"


def main() -> None:
    """Write all of them."""
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
