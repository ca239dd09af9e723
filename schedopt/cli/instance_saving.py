"""Instances leave the tool here, and only as files that read back to the same."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from schedopt.formats import load_instance, write_text_atomically
from schedopt.formats.instance_file import instance_from_document
from schedopt.formats.limits import Limits
from schedopt.formats.syntax import RefusedError
from schedopt.formats.writing import document_text
from schedopt.formats.yaml_text import parse_yaml
from schedopt.instance import Instance

Document = dict[str, Any]

_YAML = (".yaml", ".yml")


def checked_instance(document: Document, where: str, limits: Limits) -> Instance:
    """The instance of a document that came from measurements.

    Raises
    ------
    FormatError, InstanceError
        If it breaks a rule of the format; the message names the field.
    """
    return instance_from_document(document, where, limits)


def save_instance(path: Path, document: Document, limits: Limits) -> None:
    """Write a checked document, as YAML if the file's name ends so, else as JSON.

    Raises
    ------
    FormatError
        If it cannot be written, or would not read back.
    """
    document = _with_equal_stages_once(document)
    text = document_text(document)
    if path.suffix.lower() in _YAML:
        as_yaml = yaml.safe_dump(
            document, sort_keys=False, default_flow_style=None, width=88
        )
        # The text 1e3 needs quotes here, but not in YAML 1.1; JSON has them.
        text = as_yaml if _reads_as(as_yaml, document) else text
    write_text_atomically(path, text)
    if path.is_file():
        load_instance(path, limits)


def solve_command(path: Path, runtime: str = "") -> str:
    """What to do with an instance that was written, as a command."""
    rules = ["--runtime", runtime] if runtime else []
    schedule = path.with_name(f"{path.stem}.schedule.json")
    return shlex.join(
        ["schedopt", "solve", str(path), *rules, "-o", str(schedule)],
    )


def _with_equal_stages_once(document: Document) -> Document:
    stages = document["stages"]
    if len(stages) < 2 or any(stage != stages[0] for stage in stages):
        return document
    return {**document, "stages": {"count": len(stages), **stages[0]}}


def _reads_as(text: str, document: Document) -> bool:
    try:
        return parse_yaml(text) == document
    except RefusedError:
        return False
