"""Reading a spec, and the instances that it names."""

from __future__ import annotations

import glob
import itertools
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schedopt.errors import FormatError, SchedOptError
from schedopt.experiments.generate import (
    MOST_INSTANCES,
    Point,
    count_of,
    document_of,
    points,
)
from schedopt.experiments.spec_model import (
    REFRESH,
    SHORTEST,
    GeneratorFields,
    InstancesFields,
    RefreshFields,
    SpecFields,
)
from schedopt.formats import Limits, instance_from_document, load_instance
from schedopt.formats.complaints import Complaint, line, one_line, shortened, show
from schedopt.formats.model import checked
from schedopt.formats.reading import read_document
from schedopt.instance import Instance, Objective
from schedopt.nearest import did_you_mean

_LIMITS = Limits()


class SpecError(SchedOptError):
    """A spec breaks a rule; one line names the file, the field and the rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A batch of runs, as written; ``path`` names it in messages.

    ``parallel`` None means as many runs at once as the cores allow; ``objective`` None
    means each instance's own; ``settings`` has every combination of a method's own
    parameters, by the method's name; ``schedules`` says which are kept.
    """

    path: str
    name: str
    files: tuple[str, ...]
    ranges: tuple[GeneratorFields, ...]
    methods: tuple[str, ...]
    time_limit_s: float
    workers: int
    seeds: tuple[int, ...]
    objective: Objective | None
    settings: Mapping[str, tuple[Mapping[str, Any], ...]]
    parallel: int | None
    memory_limit_bytes: int
    grace_s: float
    schedules: str


def load_spec(path: str | os.PathLike[str]) -> Spec:
    """Read a spec from a TOML, YAML or JSON file.

    Raises
    ------
    SpecError, FormatError
        If it is not a spec.
    """
    where = os.fspath(path)
    document = _document(where)
    if not isinstance(document, dict):
        msg = f"{one_line(where)}: must be a mapping of fields, found {show(document)}"
        raise SpecError(msg)
    fields, complaints = checked(SpecFields, document)
    if fields is None:
        raise SpecError(line(where, complaints, document))
    complaints = list(_complaints(fields))
    if complaints:
        raise SpecError(line(where, complaints, document))
    instances = fields.instances
    if not isinstance(instances, InstancesFields):
        instances = InstancesFields(files=instances)
    methods = [fields.methods] if isinstance(fields.methods, str) else fields.methods
    return Spec(
        path=where,
        name=fields.name,
        files=tuple(instances.files),
        ranges=tuple(instances.generate),
        methods=tuple(methods),
        time_limit_s=fields.time_limit_s,
        workers=fields.workers,
        seeds=tuple(fields.seeds),
        objective=fields.objective,
        settings={REFRESH: tuple(_combinations(fields.refresh or RefreshFields()))},
        parallel=fields.parallel,
        memory_limit_bytes=fields.limits.memory_mib * 2**20,
        grace_s=fields.limits.grace_s,
        schedules=fields.schedules,
    )


def instances_of(spec: Spec) -> tuple[Instance, ...]:
    """The instances that a spec names: its files in order, then its ranges.

    Raises
    ------
    SchedOptError
        If a pattern matches nothing, or an instance is not valid.
    """
    found = [load_instance(file) for file in _files(spec)]
    for index, fields in enumerate(spec.ranges):
        where = f"{spec.path}: instances.generate[{index}]"
        found.extend(
            instance_from_document(document_of(point), f"{where}: {point.name}")
            for point in _checked_points(fields, where)
        )
    return tuple(found)


def _document(where: str) -> object:
    if Path(where).suffix.lower() != ".toml":
        return read_document(where, _LIMITS)
    try:
        with Path(where).open("rb") as file:
            data = file.read(_LIMITS.max_bytes)
        return tomllib.loads(data.decode())
    except OSError as error:
        msg = f"{one_line(where)}: cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        msg = f"{one_line(where)}: is not UTF-8 text (byte {error.start})"
    except tomllib.TOMLDecodeError as error:
        msg = f"{one_line(where)}: not TOML: {one_line(str(error))}; mend the syntax"
    except RecursionError:
        msg = f"{one_line(where)}: not TOML: nested too deep"
    raise FormatError(msg)


def _complaints(fields: SpecFields) -> Iterator[Complaint]:
    """Rules that concern lists and several fields together."""
    instances = fields.instances
    if isinstance(instances, InstancesFields):
        files = instances.files
        if not files and not instances.generate:
            yield Complaint(("instances",), "", "names none; add files or generate")
        for index, entry in enumerate(instances.generate):
            yield from _generator_complaints(entry, ("instances", "generate", index))
    elif not instances:
        yield Complaint(("instances",), "[]", "names none; add a file or a pattern")
    methods = fields.methods if isinstance(fields.methods, list) else [fields.methods]
    for name, values in (("methods", methods), ("seeds", fields.seeds)):
        yield from _list_complaints((name,), values)
    if fields.refresh is not None:
        if REFRESH not in methods:
            rule = f"does nothing without {REFRESH} among the methods; add it there"
            yield Complaint(("refresh",), "", rule)
        yield from _refresh_complaints(fields.refresh)


def _refresh_complaints(fields: RefreshFields) -> Iterator[Complaint]:
    from schedopt.baselines import BASELINES  # noqa: PLC0415 (many modules)

    for name in RefreshFields.model_fields:
        yield from _list_complaints(("refresh", name), getattr(fields, name))
    for index, pipeline in enumerate(fields.pipeline):
        if pipeline != SHORTEST and pipeline not in BASELINES:
            hint = did_you_mean(pipeline, [SHORTEST, *BASELINES])
            rule = f"is neither {SHORTEST} nor a hand-made schedule{hint}"
            yield Complaint(("refresh", "pipeline", index), show(pipeline), rule)


def _combinations(fields: RefreshFields) -> Iterator[dict[str, Any]]:
    """Every combination of the lists; words as text."""
    names = list(RefreshFields.model_fields)
    for values in itertools.product(*(getattr(fields, name) for name in names)):
        plain = (str(value) if isinstance(value, str) else value for value in values)
        yield dict(zip(names, plain, strict=True))


def _generator_complaints(
    fields: GeneratorFields, path: tuple[str | int, ...]
) -> Iterator[Complaint]:
    for name in GeneratorFields.model_fields:
        values = getattr(fields, name)
        if isinstance(values, list):
            yield from _list_complaints((*path, name), values)
    if fields.generator == "uniform" and "seeds" in fields.model_fields_set:
        rule = "does nothing for uniform stages; remove it"
        yield Complaint((*path, "seeds"), show(fields.seeds), rule)
    if fields.sample is not None and fields.sample > count_of(fields):
        rule = f"is more than the {count_of(fields)} combinations that there are"
        yield Complaint((*path, "sample"), show(fields.sample), rule)
    if fields.sample is None and "sample_seed" in fields.model_fields_set:
        rule = "does nothing without sample; remove it"
        yield Complaint((*path, "sample_seed"), show(fields.sample_seed), rule)
    if count_of(fields) > MOST_INSTANCES:
        rule = f"makes {count_of(fields)} instances, more than {MOST_INSTANCES}"
        yield Complaint(path, "", rule)


def _list_complaints(
    path: tuple[str | int, ...], values: Sequence[object]
) -> Iterator[Complaint]:
    if not values:
        yield Complaint(path, "[]", "must not be empty")
    for index, value in enumerate(values):
        if value in values[:index]:
            yield Complaint((*path, index), show(value), "stands twice; remove one")


def _checked_points(fields: GeneratorFields, where: str) -> Iterator[Point]:
    for point in points(fields):
        if point.microbatches < 1:
            msg = (
                f"{one_line(where)}.microbatches: gives {point.microbatches} for"
                f" {point.devices} devices; must be at least 1"
            )
            raise SpecError(msg)
        yield point


def _files(spec: Spec) -> Iterator[str]:
    folder = Path(spec.path).parent
    seen: set[str] = set()
    for index, pattern in enumerate(spec.files):
        found = _matches(folder, pattern) or _matches(Path.cwd(), pattern)
        if not found:
            msg = (
                f"{one_line(spec.path)}: instances.files[{index}] ="
                f" {shortened(pattern)}: matches no file; check the path, which is"
                " relative to the spec's folder"
            )
            raise SpecError(msg)
        for file in found:
            real = os.path.realpath(file)
            if real not in seen:
                seen.add(real)
                yield file


def _matches(folder: Path, pattern: str) -> list[str]:
    # An absolute pattern replaces the folder.
    joined = os.path.join(glob.escape(os.fspath(folder)), pattern)  # noqa: PTH118 -- Path would lose a leading ".."
    return sorted(
        os.path.normpath(file)
        for file in glob.glob(joined, recursive=True)  # noqa: PTH207 -- Path.glob takes no ".."
        if Path(file).is_file()
    )
