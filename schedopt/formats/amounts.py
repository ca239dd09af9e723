"""The types of fields that several formats share: amounts, counts, names and units."""

from __future__ import annotations

from typing import Annotated

from schedopt.formats import values
from schedopt.instance import Number

_amount = values.number()
_positive = values.number(positive=True)
_count = values.whole(1)
_index = values.whole(0)

Amount = Annotated[Number, _amount.validator, _amount.json_schema]
OptionalAmount = Annotated[
    Number | None, _amount.or_null().validator, _amount.or_null().json_schema
]
Positive = Annotated[Number, _positive.validator, _positive.json_schema]
OptionalPositive = Annotated[
    Number | None, _positive.or_null().validator, _positive.or_null().json_schema
]
Count = Annotated[int, _count.validator, _count.json_schema]
Index = Annotated[int, _index.validator, _index.json_schema]
Flag = Annotated[bool, values.flag().validator, values.flag().json_schema]

_name = values.text(least=1)
_source = values.text(lines=True)
Name = Annotated[str, _name.validator, _name.json_schema]
OptionalName = Annotated[
    str | None, _name.or_null().validator, _name.or_null().json_schema
]
Source = Annotated[str, _source.validator, _source.json_schema]

_time_unit = values.word(("s", "ms", "us", "ns"))
_memory_unit = values.word(("B", "KiB", "MiB", "GiB"))
_resolution = values.power_of_ten(-9, 0)
TimeUnit = Annotated[str, _time_unit.validator, _time_unit.json_schema]
MemoryUnit = Annotated[str, _memory_unit.validator, _memory_unit.json_schema]
Resolution = Annotated[Number, _resolution.validator, _resolution.json_schema]

# The unit of a field that is a time or a size: what the instance gives.
TIME = "time_unit"
MEMORY = "memory_unit"
