"""The reference page says what the models say; the package is light to import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_formats_reading import write

import schedopt.formats
from schedopt.formats import load_instance, reference_tables
from schedopt.formats.instance_model import InstanceFields
from schedopt.formats.reference import MODELS
from schedopt.instance import Kfac

PAGE = Path(__file__).parent.parent / "docs" / "formats.md"


def test_tables_of_the_page_are_the_generated_ones() -> None:
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- fields: (\w+) -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert dict(blocks) == reference_tables()
    assert len(blocks) == len(reference_tables())


def test_every_field_is_described() -> None:
    for name, model in MODELS.items():
        for field, info in model.model_fields.items():
            assert info.description, f"{name}.{field}"
    assert (
        reference_tables()["stage"].count("\n")
        == len({"head", "rule", "count", *MODELS["stage"].model_fields}) - 1
    )


def test_units_and_defaults_are_in_the_table() -> None:
    table = reference_tables()["instance"]
    assert (
        "| `memory_limit` | memory of every device that does not give its own; absent"
        " means unlimited | memory_unit | absent |"
    ) in table
    assert "| `name` | what tables call the instance |  | required |" in table
    assert "every number is rounded once |  | `1e-06` |" in table
    assert len(table.splitlines()) == 2 + len(InstanceFields.model_fields)


def test_examples_of_the_page_are_instances(tmp_path: Path) -> None:
    examples = re.findall(
        r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    least, kfac = (load_instance(write(tmp_path, example)) for example in examples)
    assert (len(least.stages), least.microbatches) == (4, 8)
    assert kfac.steps == 4
    assert kfac.kfac == Kfac(interval=2, refreshes=2)
    assert sum(module.count for module in kfac.stages[3].modules) == 6


def test_every_public_name_exists() -> None:
    for name in schedopt.formats.__all__:
        assert getattr(schedopt.formats, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = schedopt.formats.nothing


def test_import_is_light() -> None:
    code = (
        "import sys, schedopt.formats;"
        "print([m for m in ('pydantic', 'yaml', 'networkx') if m in sys.modules])"
    )
    root = Path(schedopt.formats.__file__).parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
