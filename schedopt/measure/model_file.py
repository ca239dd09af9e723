"""The file beside a measured instance that says which model was measured.

``schedopt profile -o gpt.yaml`` writes ``gpt.model.json``, and ``schedopt execute
--config`` trains that very model. JSON with the sizes of ``GptModel``.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from schedopt.errors import FormatError
from schedopt.formats import values
from schedopt.formats.complaints import Complaint, line, show
from schedopt.formats.instance_file import require_schema
from schedopt.formats.limits import Limits
from schedopt.formats.model import Strict, checked, field
from schedopt.formats.reading import read_document
from schedopt.formats.writing import document_text, write_text_atomically
from schedopt.measure.sizes import GptModel

MODEL_SCHEMA = "schedopt/model/v1"

_schema = values.word((MODEL_SCHEMA,))
_kind = values.word(("gpt",))
_positive = values.whole(1, 10**9)
_size = values.whole(0, 10**9)
_type = values.word(("float32", "bfloat16", "float16", "float64"))
_flag = values.flag()

Positive = Annotated[int, _positive.validator, _positive.json_schema]
Size = Annotated[int, _size.validator, _size.json_schema]
Flag = Annotated[bool, _flag.validator, _flag.json_schema]


class ModelFields(Strict):
    """A model that was measured."""

    schema_: Annotated[str, _schema.validator, _schema.json_schema] = field(
        "format and version", alias="schema"
    )
    model: Annotated[str, _kind.validator, _kind.json_schema] = field("its kind")
    stages: Positive = field("stages that it was cut into")
    layers: Positive = field("blocks in all")
    hidden: Positive = field("width")
    heads: Positive = field("attention heads; divides hidden")
    sequence: Positive = field("tokens per sequence")
    microbatch_size: Positive = field("sequences per microbatch")
    dtype: Annotated[str, _type.validator, _type.json_schema] = field(
        "type of weights and hidden states"
    )
    vocabulary: Size = field("0: no embedding, no output layer")
    mlp_ratio: Positive = field("width of the MLP over hidden")
    checkpointing: Flag = field("blocks are recomputed in their backward")
    compiled: Flag = field("stages are compiled")


def model_path(instance: Path) -> Path:
    """Where the model of a measured instance is written: beside it."""
    return instance.with_name(f"{instance.stem}.model.json")


def model_document(model: GptModel) -> dict[str, Any]:
    """The document that ``load_model`` reads back to an equal model."""
    return {"schema": MODEL_SCHEMA, "model": "gpt", **asdict(model)}


def save_model(path: Path, model: GptModel) -> None:
    """Write a model's file.

    Raises
    ------
    FormatError
        If it cannot be written.
    """
    write_text_atomically(path, document_text(model_document(model)))


def load_model(path: Path, limits: Limits) -> GptModel:
    """Read the file that ``profile`` wrote.

    Raises
    ------
    FormatError
        If it is no such file; the message names the field.
    """
    where = str(path)
    mapping = require_schema(read_document(path, limits), where, MODEL_SCHEMA)
    fields, complaints = checked(ModelFields, mapping)
    if fields is not None and fields.hidden % fields.heads:
        rule = f"must divide hidden ({fields.hidden})"
        complaints = [Complaint(("heads",), show(fields.heads), rule)]
    if fields is None or complaints:
        raise FormatError(line(where, complaints, mapping))
    return GptModel(**fields.model_dump(exclude={"schema_", "model"}))
