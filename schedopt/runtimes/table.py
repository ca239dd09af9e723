"""The table of runtime profiles for the documentation, from the profiles."""

from __future__ import annotations

from schedopt.runtimes.catalog import PROFILES
from schedopt.runtimes.profile import FirstStage, RuntimeProfile


def profile_table() -> str:
    """A Markdown table: one row for each thing that runtimes differ in."""
    profiles = list(PROFILES.values())
    lines = [
        "| | " + " | ".join(f"`{profile.name}`" for profile in profiles) + " |",
        "|---|" + "---|" * len(profiles),
    ]
    cells = list(map(_cells, profiles))
    for name in cells[0]:
        lines.append(f"| {name} | " + " | ".join(cell[name] for cell in cells) + " |")
    return "\n".join(lines)


def _cells(profile: RuntimeProfile) -> dict[str, str]:
    first = profile.first_stage.value
    if profile.first_stage is FirstStage.REAL and not profile.has_split:
        first = "no split"
    return {
        "placement": profile.placement_text,
        "devices": "any" if profile.takes_one_device else "two or more",
        "number of microbatches": (
            "multiple of the devices" if profile.multiple_of_devices else "any"
        ),
        "backward": profile.forms.value,
        "order of microbatches": profile.order.value,
        "split on stage 0": first,
        "last stage": "F directly before its B" if profile.last_stage_paired else "any",
        "recompute": profile.recompute.value,
        "communication": profile.communication,
        "extra ops": profile.extra_ops,
        "no deadlock by": profile.deadlock,
        "known by": profile.evidence.value,
        "source": profile.source,
    }
