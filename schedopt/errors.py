"""The errors that schedopt raises; each message is one line for a person."""

from __future__ import annotations


class SchedOptError(Exception):
    """Something is wrong with what the user gave; the message says what mends it."""


class InstanceError(SchedOptError):
    """An instance breaks a rule of its format."""


class FormatError(SchedOptError):
    """A file cannot be read as what it claims to be."""


class OrderError(SchedOptError):
    """An order cannot be executed: an op is missing, doubled, or waits for itself."""


class NotApplicableError(SchedOptError):
    """A hand-made schedule does not exist for this instance."""


class ExportError(SchedOptError):
    """A schedule cannot be expressed in a format, or its runtime would refuse it."""


class RuntimeNameError(SchedOptError):
    """There is no runtime of that name."""


class ExecutionError(SchedOptError):
    """A schedule was not executed, or its runtime came to other results."""


class MeasurementError(SchedOptError):
    """A stage of a model cannot be measured here."""
