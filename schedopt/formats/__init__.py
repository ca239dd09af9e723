"""The two file formats: reading, checking and writing instances and schedules.

Both are JSON or YAML with a version in their ``schema`` field. Everything that is wrong
with a file is said in one line that names the file, the field and what would mend it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schedopt.lazy import lazy_names

if TYPE_CHECKING:
    from schedopt.formats.instance_file import (
        instance_document,
        instance_from_document,
        instance_sha256,
        load_instance,
        with_runtime,
    )
    from schedopt.formats.instance_model import instance_schema
    from schedopt.formats.limits import Limits
    from schedopt.formats.reference import reference_tables
    from schedopt.formats.schedule_file import (
        TimedOp,
        load_schedule,
        schedule_document,
        schedule_from_document,
        starts_from,
        write_schedule_document,
    )
    from schedopt.formats.schedule_model import ScheduleFile, schedule_schema
    from schedopt.formats.streams import parse_stream, stream_text
    from schedopt.formats.writing import write_text_atomically

# Where each public name lives: pydantic and yaml are imported on first use only, so
# that a command that reads no file starts fast.
_HOME = {
    "Limits": "limits",
    "ScheduleFile": "schedule_model",
    "TimedOp": "schedule_file",
    "instance_document": "instance_file",
    "instance_from_document": "instance_file",
    "instance_schema": "instance_model",
    "instance_sha256": "instance_file",
    "load_instance": "instance_file",
    "load_schedule": "schedule_file",
    "parse_stream": "streams",
    "reference_tables": "reference",
    "schedule_document": "schedule_file",
    "schedule_from_document": "schedule_file",
    "schedule_schema": "schedule_model",
    "starts_from": "schedule_file",
    "stream_text": "streams",
    "with_runtime": "instance_file",
    "write_schedule_document": "schedule_file",
    "write_text_atomically": "writing",
}

__all__ = [
    "Limits",
    "ScheduleFile",
    "TimedOp",
    "instance_document",
    "instance_from_document",
    "instance_schema",
    "instance_sha256",
    "load_instance",
    "load_schedule",
    "parse_stream",
    "reference_tables",
    "schedule_document",
    "schedule_from_document",
    "schedule_schema",
    "starts_from",
    "stream_text",
    "with_runtime",
    "write_schedule_document",
    "write_text_atomically",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
