"""What is kept of a run: one JSON object, checked when it is read back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

RECORD_SCHEMA = "schedopt/run/v1"

Record = Mapping[str, Any]


class RunStatus(StrEnum):
    """How a run ended.

    ``optimal``, ``feasible``, ``infeasible`` and ``unknown`` as in
    ``schedopt.solve.Status``. ``not-applicable``: the method does not exist for the
    instance, or its schedule does not fit. ``failed``: it raised an error or crashed.
    ``timeout``: it was killed at its wall limit. ``out-of-memory``: it was killed at
    its memory limit, or could not allocate.
    """

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"
    NOT_APPLICABLE = "not-applicable"
    FAILED = "failed"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out-of-memory"

    @property
    def broke(self) -> bool:
        """Whether the run did not come to its own end."""
        return self in (RunStatus.FAILED, RunStatus.TIMEOUT, RunStatus.OUT_OF_MEMORY)


# Every record has all of these; what a run does not know is null.
FIELDS = (
    "schema",
    "key",
    "instance",
    "instance_sha256",
    "devices",
    "stages",
    "microbatches",
    "time_unit",
    "memory_unit",
    "method",
    "baseline",
    "parameters",
    "versions",
    "git_revision",
    "cores",
    "started_at",
    "status",
    "form",
    "as_written",
    "problem_sha256",
    "objective",
    "value",
    "lower_bound",
    "gap",
    "makespan",
    "device_span",
    "peak_memory",
    "measures",
    "member",
    "trace",
    "reason",
    "schedule",
    "wall_s",
    "cpu_s",
    "peak_rss_bytes",
)

# Records had no such fields at first. They are left out where they are null, so that
# records from then are read, and written again, as they are.
LATER_FIELDS = ("measures",)


class BadRecordError(Exception):
    """A file is not a whole record; the message says why."""


def canonical(value: object) -> str:
    """One spelling for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256(text: str) -> str:
    """The SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def run_key(
    instance_sha256: str,
    method: str,
    parameters: Mapping[str, Any],
    versions: Mapping[str, str],
) -> str:
    """What identifies a run: a hash of everything that decides its result."""
    return sha256(
        canonical([RECORD_SCHEMA, instance_sha256, method, parameters, versions])
    )


def record_text(fields: Mapping[str, Any]) -> str:
    """A record's file, with a checksum over its fields.

    Raises
    ------
    ValueError
        If a field is missing, unknown or not finite.
    """
    if set(fields) != set(FIELDS):
        wrong = sorted(set(fields) ^ set(FIELDS))
        msg = f"a record has other fields: {', '.join(wrong)}"
        raise ValueError(msg)
    ordered = {
        name: fields[name]
        for name in FIELDS
        if name not in LATER_FIELDS or fields[name] is not None
    }
    check = sha256(canonical(ordered))
    return json.dumps({**ordered, "check": check}, allow_nan=False) + "\n"


def parse_record(text: str, key: str | None = None) -> Record:
    """Read a record back; ``key`` is the one that it must have.

    Raises
    ------
    BadRecordError
        If the text is truncated, changed, or something else.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        msg = "not JSON, perhaps cut off"
        raise BadRecordError(msg) from None
    if not isinstance(document, dict) or document.get("schema") != RECORD_SCHEMA:
        msg = f"not a record of {RECORD_SCHEMA}"
        raise BadRecordError(msg)
    check = document.pop("check", None)
    missing = set(FIELDS) - set(document)
    if not missing <= set(LATER_FIELDS) or not set(document) <= set(FIELDS):
        msg = "fields are missing or unknown"
        raise BadRecordError(msg)
    if check != sha256(canonical(document)):
        msg = "its checksum does not agree"
        raise BadRecordError(msg)
    if key is not None and document["key"] != key:
        msg = "is another run's record"
        raise BadRecordError(msg)
    return {**dict.fromkeys(FIELDS), **document}
