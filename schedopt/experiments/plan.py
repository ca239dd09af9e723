"""From a spec to its runs: every method on every instance, each with its key."""

from __future__ import annotations

import os
import platform
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from schedopt.experiments.methods import ALL_BASELINES, Method, Registry
from schedopt.experiments.record import FIELDS, RECORD_SCHEMA, run_key
from schedopt.experiments.spec import Spec, SpecError, instances_of
from schedopt.formats import instance_document, instance_sha256
from schedopt.formats.complaints import listed, one_line, shortened
from schedopt.instance import Instance
from schedopt.nearest import did_you_mean

# What decides a result besides the code here: the solver, and what computes for it.
_PACKAGES = ("ortools", "networkx", "numpy", "numba")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A method on an instance with its parameters; ``key`` identifies it."""

    key: str
    instance: Instance
    sha256: str
    method: str
    cheap: bool
    baseline: bool
    parameters: Mapping[str, Any]

    def request(
        self, schedules: str, schedule_path: Path, versions: Mapping[str, str]
    ) -> dict[str, Any]:
        """What the child is told."""
        return {
            "key": self.key,
            "method": self.method,
            "instance": instance_document(self.instance),
            "parameters": dict(self.parameters),
            "schedules": schedules,
            "schedule_path": str(schedule_path),
            "versions": dict(versions),
        }


@dataclass(frozen=True)
class Plan:
    """The runs of a spec, and what all their records have in common."""

    spec: Spec
    runs: tuple[Run, ...]
    parallel: int
    cores: int
    versions: Mapping[str, str]
    git_revision: str | None
    warnings: tuple[str, ...]

    @cached_property
    def by_key(self) -> Mapping[str, Run]:
        """The runs by their keys."""
        return {run.key: run for run in self.runs}

    def record(
        self, run: Run, result: Mapping[str, Any], started: float | None
    ) -> dict[str, Any]:
        """A run's record: what was known before it, and what came of it."""
        blank = dict.fromkeys(FIELDS)
        at = None if started is None else datetime.fromtimestamp(started, UTC)
        objective = run.parameters["objective"] or run.instance.objective.value
        return {
            **blank,
            "schema": RECORD_SCHEMA,
            "key": run.key,
            "instance": run.instance.name,
            "instance_sha256": run.sha256,
            "devices": len(run.instance.devices),
            "stages": len(run.instance.stages),
            "microbatches": run.instance.microbatches,
            "time_unit": run.instance.time_unit,
            "memory_unit": run.instance.memory_unit,
            "method": run.method,
            "baseline": run.baseline,
            "parameters": dict(run.parameters),
            "versions": dict(self.versions),
            "git_revision": self.git_revision,
            "cores": self.cores,
            "started_at": None if at is None else at.isoformat(timespec="seconds"),
            "objective": objective,
            "trace": [],
            "reason": "",
            "schedule": False,
            **result,
        }


def make_plan(spec: Spec, registry: Registry) -> Plan:
    """The runs of a spec.

    Raises
    ------
    SchedOptError
        If it names an unknown method or no usable instance, or asks for more busy
        processes than there are cores.
    """
    methods = _methods(spec, registry)
    cores = available_cores()
    warnings: list[str] = []
    parallel = _parallel(spec, cores, warnings)
    versions = _versions()
    runs: dict[str, Run] = {}
    named: dict[str, str] = {}
    for instance in instances_of(spec):
        sha256 = instance_sha256(instance)
        if sha256 in named:
            first = named[sha256]
            warnings.append(
                f"{one_line(instance.name)} has the content of {one_line(first)}:"
                " run once, under that name"
            )
            continue
        named[sha256] = instance.name
        for method in methods:
            for parameters in _parameters(spec, method):
                key = run_key(sha256, method.name, parameters, versions)
                runs[key] = Run(
                    key=key,
                    instance=instance,
                    sha256=sha256,
                    method=method.name,
                    cheap=method.cheap,
                    baseline=method.baseline,
                    parameters=parameters,
                )
    return Plan(
        spec=spec,
        runs=tuple(runs.values()),
        parallel=parallel,
        cores=cores,
        versions=versions,
        git_revision=_git_revision(),
        warnings=tuple(warnings),
    )


def available_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _methods(spec: Spec, registry: Registry) -> list[Method]:
    chosen: dict[str, Method] = {}
    for index, name in enumerate(spec.methods):
        if name == ALL_BASELINES:
            chosen |= {m.name: m for m in registry.values() if m.baseline}
        elif name in registry:
            chosen[name] = registry[name]
        else:
            known = [*registry, ALL_BASELINES]
            hint = did_you_mean(name, known) or f" (known: {listed(known)})"
            msg = (
                f"{one_line(spec.path)}: methods[{index}] = {shortened(name)}:"
                f" is no method{hint}"
            )
            raise SpecError(msg)
    if not chosen:
        msg = f"{one_line(spec.path)}: methods: there is no baseline to run"
        raise SpecError(msg)
    return list(chosen.values())


def _parallel(spec: Spec, cores: int, warnings: list[str]) -> int:
    parallel = spec.parallel or max(1, cores // spec.workers)
    if parallel * spec.workers <= cores:
        return parallel
    excess = (
        f"{one_line(spec.path)}: parallel = {parallel}: with workers = {spec.workers}"
        f" keeps {parallel * spec.workers} processes busy on {cores} cores"
    )
    if parallel > 1:
        msg = f"{excess}; lower one of them, or leave parallel out"
        raise SpecError(msg)
    warnings.append(f"{excess}; times will be longer than they need be")
    return parallel


def _parameters(spec: Spec, method: Method) -> Iterator[dict[str, Any]]:
    """The parameters of each run of a method on an instance.

    One run per combination of the method's own settings and per seed.
    """
    objective = method.objective or spec.objective
    common = {
        "time_limit_s": spec.time_limit_s,
        "objective": None if objective is None else objective.value,
        "memory_limit_bytes": spec.memory_limit_bytes,
        "grace_s": spec.grace_s,
    }
    for settings in spec.settings.get(method.name, ({},)):
        if not method.seeded:
            yield {**common, **settings}
            continue
        for seed in spec.seeds:
            yield {**common, **settings, "workers": spec.workers, "seed": seed}


def _versions() -> dict[str, str]:
    found = {"schedopt": _own_version(), "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"  # so it cannot decide a result
    return found


def _own_version() -> str:
    """The version of the source tree that the code is in, else of the installation."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    if project.is_file():
        about = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
        if about.get("name") == "schedopt":
            return str(about["version"])
    return version("schedopt")


def _git_revision() -> str | None:
    """The commit of the code, if it is run from a git tree; ``+`` marks changes."""
    folder = Path(__file__).parents[1]

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *words],
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    # Installed into some other project's tree, the code has no commit of its own.
    if not git("ls-files", "--error-unmatch", str(Path(__file__))):
        return None
    return f"{commit}+" if git("status", "--porcelain", "--", str(folder)) else commit
