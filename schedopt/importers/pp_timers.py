"""Event times of a Megatron run, as PP-Schedule-Visualization shows them.

One JSON file per rank, ``event_times_PP<p>_VPP<v>_TPxCPxDP_rank_<i>_pp_rank_<r>_rank_
<g>.json``: a mapping of ``forward-<microbatch>-start`` (with v = 1) or
``forward-<chunk>-<microbatch>-start``, the same with ``-end`` and with ``backward``, to
milliseconds. Chunk c of rank r is stage c x p + r. Read in the source of
``Victarry/PP-Schedule-Visualization`` (its reader of such files); no file of a real run
was at hand.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from schedopt.errors import FormatError
from schedopt.formats.limits import Limits
from schedopt.importers.drafts import Draft, Imported, Wanted, imported
from schedopt.importers.files import is_number, read_json, wrong
from schedopt.instance import Number
from schedopt.runtimes.measured import tidy

_NAME = re.compile(
    r"event_times_PP(?P<pp>\d{1,5})_VPP(?P<vpp>\d{1,5})_TPxCPxDP_rank_(?P<other>\d+)"
    r"_pp_rank_(?P<rank>\d{1,5})_rank_\d+\.json(?:\.gz)?"
)
_KEY = re.compile(
    r"(?P<kind>forward|backward)-(?:(?P<chunk>\d{1,5})-)?(?P<microbatch>\d{1,6})"
    r"-(?P<edge>start|end)"
)

Times = dict[tuple[int, str], list[float]]


def read(paths: Sequence[Path], wanted: Wanted, limits: Limits) -> Imported:
    """The instance of a run: medians over microbatches of F and of the whole backward.

    Of several files of one pipeline rank the first is taken. The times hold what the
    timers surround: in Megatron not the transfers.

    Raises
    ------
    FormatError
        If a file is not of this form, or a rank is missing.
    """
    shape, files = _files(paths)
    devices, chunks = shape
    times: Times = defaultdict(list)
    microbatches = 0
    for rank, path in sorted(files.items()):
        events = read_json(path, limits)
        found = _durations(events, rank, devices, chunks, path)
        for key, samples in found.items():
            times[key] += samples.values()
            microbatches = max(microbatches, max(samples) + 1)
    stages: list[Mapping[str, Number]] = []
    for stage in range(devices * chunks):
        for kind in ("forward", "backward"):
            if not times.get((stage, kind)):
                msg = (
                    f"{files[stage % devices]}: has no {kind} of stage {stage}; give"
                    " the files of a whole step"
                )
                raise FormatError(msg)
        stages.append(
            {kind: tidy(median(times[stage, kind])) for kind in ("forward", "backward")}
        )
    notes = ["the files say nothing of memory: sizes are 0"]
    if len(paths) > len(files):
        notes.append("of several files of one pipeline rank the first was taken")
    draft = Draft(
        name=f"pp-timers-p{devices}-v{chunks}",
        source=(
            f"Megatron pipeline event times of {devices} ranks"
            f" ({files[0].name}, ...); medians over microbatches"
        ),
        stages=stages,
        time_unit="ms",
        backward="whole",
        devices=devices,
        device_of_stage=[stage % devices for stage in range(devices * chunks)],
        microbatches=microbatches,
        notes=notes,
    )
    return imported(draft, wanted, paths[0])


def _files(paths: Sequence[Path]) -> tuple[tuple[int, int], dict[int, Path]]:
    """Ranks and chunks, and the file of each pipeline rank."""
    shapes: dict[tuple[int, int], Path] = {}
    files: dict[int, Path] = {}
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match is None:
            msg = (
                f"{path}: its name must say what it is of: event_times_PP4_VPP1_"
                "TPxCPxDP_rank_0_pp_rank_2_rank_2.json"
            )
            raise FormatError(msg)
        shape = int(match["pp"]), int(match["vpp"])
        shapes.setdefault(shape, path)
        if len(shapes) > 1 or not all(shape) or int(match["rank"]) >= shape[0]:
            msg = f"{path}: PP, VPP or pp_rank does not go with {paths[0].name}"
            raise FormatError(msg)
        files.setdefault(int(match["rank"]), path)
    (shape,) = shapes
    missing = set(range(shape[0])) - set(files)
    if missing:
        msg = (
            f"{paths[0]}: the file of pp_rank {min(missing)} is missing; give one per"
            f" pipeline rank, {shape[0]} in all"
        )
        raise FormatError(msg)
    return shape, files


def _durations(
    events: Mapping[str, Any], rank: int, devices: int, chunks: int, path: Path
) -> dict[tuple[int, str], dict[int, float]]:
    """For each (stage, kind) of a rank the milliseconds of each microbatch."""
    edges: dict[tuple[int, str, int], dict[str, float]] = defaultdict(dict)
    for key, value in events.items():
        match = _KEY.fullmatch(key)
        if match is None:
            continue  # the patch may time other things too
        if (match["chunk"] is not None) != (chunks > 1):
            rule = (
                "must name a chunk and a microbatch, as VPP > 1"
                if chunks > 1
                else "must name a microbatch only, as VPP = 1"
            )
            raise wrong(path, "key", key, rule)
        chunk = int(match["chunk"] or 0)
        if chunk >= chunks:
            raise wrong(path, "key", key, f"there are only {chunks} chunks")
        if not is_number(value):
            raise wrong(path, key, value, "must be a number of milliseconds")
        stage = chunk * devices + rank
        edges[stage, match["kind"], int(match["microbatch"])][match["edge"]] = value
    found: dict[tuple[int, str], dict[int, float]] = defaultdict(dict)
    for (stage, kind, microbatch), pair in edges.items():
        if len(pair) < 2:
            missing = "end" if "start" in pair else "start"
            msg = (
                f"{path}: {kind} of microbatch {microbatch} (stage {stage}) has no"
                f" {missing}; give whole steps"
            )
            raise FormatError(msg)
        if pair["end"] < pair["start"]:
            place = f"{kind} of microbatch {microbatch}: end"
            rule = f"must not be before its start, {pair['start']}"
            raise wrong(path, place, pair["end"], rule)
        found[stage, kind][microbatch] = pair["end"] - pair["start"]
    return found
