"""The tables of fields for the reference page, from the models themselves."""

from __future__ import annotations

import json

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from schedopt.formats.best_known_model import (
    BestKnownFile,
    EntryFields,
    FinderFields,
)
from schedopt.formats.instance_model import (
    CommunicationFields,
    DeviceFields,
    EqualStagesFields,
    InstanceFields,
    LinkFields,
    StageFields,
)
from schedopt.formats.kfac_model import KfacFields, ModuleFields
from schedopt.formats.schedule_model import (
    BubbleRatioFields,
    OpFields,
    ScheduleFile,
    SteadyFields,
    TraceFields,
)

MODELS: dict[str, type[BaseModel]] = {
    "instance": InstanceFields,
    "stage": StageFields,
    "module": ModuleFields,
    "kfac": KfacFields,
    "device": DeviceFields,
    "communication": CommunicationFields,
    "link": LinkFields,
    "schedule": ScheduleFile,
    "bubble_ratio": BubbleRatioFields,
    "trace": TraceFields,
    "steady": SteadyFields,
    "op": OpFields,
    "best_known": BestKnownFile,
    "entry": EntryFields,
    "finder": FinderFields,
}


def reference_tables() -> dict[str, str]:
    """For each mapping of the formats the Markdown table of its fields."""
    return {name: _table(model) for name, model in MODELS.items()}


def _table(model: type[BaseModel]) -> str:
    lines = ["| field | meaning | unit | default |", "|---|---|---|---|"]
    lines += [_row(name, info) for name, info in model.model_fields.items()]
    if model is StageFields:
        name, info = "count", EqualStagesFields.model_fields["count"]
        lines.append(_row(name, info, note=" (in one mapping only)"))
    return "\n".join(lines)


def _row(name: str, info: FieldInfo, note: str = "") -> str:
    extra = info.json_schema_extra
    unit = str(extra.get("unit", "")) if isinstance(extra, dict) else ""
    meaning = (info.description or "").replace("|", "\\|")
    return f"| `{info.alias or name}` | {meaning}{note} | {unit} | {_default(info)} |"


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    default = info.get_default(call_default_factory=True)
    if default is None:
        return "absent"
    if isinstance(default, BaseModel):
        return "`{}`"
    return f"`{json.dumps(default)}`"
