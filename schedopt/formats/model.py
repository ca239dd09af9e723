"""What the models of both formats share: strict fields, and errors as complaints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from schedopt.formats.complaints import Complaint, Path, Places, listed, show
from schedopt.nearest import nearest

# Shapes of a field that may be written in several ways; they stand in pydantic's
# locations, and no field is called like that.
ONE, LIST, MAPPING = "<one>", "<list>", "<mapping>"
_KEY = "[key]"  # how pydantic marks that a key, not its value, is wrong
_SHAPES = (ONE, LIST, MAPPING, _KEY)

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """A mapping in a file: no unknown fields, no conversion, never changed."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, populate_by_name=False
    )


def field(description: str, *, unit: str = "", **options: Any) -> Any:
    """A documented field; ``unit`` is for the reference page and the JSON Schema."""
    extra: dict[str, JsonValue] | None = {"unit": unit} if unit else None
    return Field(description=description, json_schema_extra=extra, **options)


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a format."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model.model_json_schema(),
    }


def by_shape(rule: str, *shapes: str) -> Discriminator:
    """Choose how to read a field by its shape: one value, a list or a mapping."""

    def shape(value: object) -> str | None:
        if isinstance(value, dict):
            found = MAPPING
        else:
            found = LIST if isinstance(value, list) else ONE
        return found if found in shapes else None

    return Discriminator(
        shape,
        custom_error_type="rule",
        custom_error_message="{rule}",
        custom_error_context={"rule": rule},
    )


def checked(
    model: type[Model], document: Mapping[str, Any]
) -> tuple[Model | None, list[Complaint]]:
    """The document as the model, or what is wrong with its fields."""
    try:
        return model.model_validate(document), []
    except ValidationError as error:
        found = error.errors(include_url=False)
    # Only the first is ever shown; of perhaps very many others the paths suffice.
    places = Places(document)
    first = min(found, key=lambda details: places.of(_path(details)))
    others = (details for details in found if details is not first)
    return None, [
        _complaint(model, first),
        *(Complaint(_path(details), "", "") for details in others),
    ]


def _path(details: ErrorDetails) -> Path:
    return tuple(part for part in details["loc"] if part not in _SHAPES)


def _complaint(model: type[BaseModel], details: ErrorDetails) -> Complaint:
    path = _path(details)
    value = details["input"]
    match details["type"]:
        case "rule":
            return Complaint(path, show(value), details["msg"])
        case "missing":
            owner = _model_at(model, path[:-1])
            about = _known(owner)[str(path[-1])].description if owner else ""
            return Complaint(path, "", f"is missing; add it ({about})")
        case "extra_forbidden" | "invalid_key":
            return Complaint(
                path, show(value), _unknown_field(path, _model_at(model, path[:-1]))
            )
        case "list_type":
            return Complaint(path, show(value), "must be a list")
        case "model_type" | "dict_type" | "model_attributes_type":
            return Complaint(path, show(value), "must be a mapping of fields")
        case _:
            return Complaint(path, show(value), details["msg"])


def _unknown_field(path: Path, owner: type[BaseModel] | None) -> str:
    known = list(_known(owner)) if owner else []
    near = nearest(str(path[-1]), known, cutoff=0.5)
    if near:
        return f"is an unknown field; did you mean {near}?"
    return f"is an unknown field; remove it (known here: {listed(known)})"


def _known(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _model_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """The model that describes the mapping at a path, found through the annotations."""
    owners = {model}
    for part in path:
        if isinstance(part, int):
            continue
        infos = [_known(owner).get(part) for owner in owners]
        owners = {
            found
            for info in infos
            if info is not None
            for found in _models_in(info.annotation)
        }
    # Of several ways to write a field, the one with more fields explains it.
    return max(owners, key=lambda owner: len(owner.model_fields), default=None)


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in cast("tuple[object, ...]", getattr(annotation, "__args__", ())):
        yield from _models_in(argument)
