"""K-FAC's fields to and from what the instance holds of them."""

from __future__ import annotations

from typing import Any

from schedopt.formats.documents import defaults_of, number, optional, without
from schedopt.formats.kfac_model import KfacFields, ModuleFields
from schedopt.instance import Kfac, KfacModule

_MODULE = tuple(ModuleFields.model_fields)
_KFAC = tuple(KfacFields.model_fields)


def module_of(fields: ModuleFields) -> KfacModule:
    """The module that checked fields describe."""
    return KfacModule(**{name: getattr(fields, name) for name in _MODULE})


def kfac_of(fields: KfacFields) -> Kfac:
    """The second-order work that checked fields describe."""
    return Kfac(**{name: getattr(fields, name) for name in _KFAC})


def module_document(module: KfacModule) -> dict[str, Any]:
    """The canonical document of a module."""
    document: dict[str, Any] = {name: getattr(module, name) for name in _MODULE}
    numbers = {
        name: number(value) for name, value in document.items() if name != "name"
    }
    return without(document | numbers, defaults_of(ModuleFields))


def kfac_document(kfac: Kfac) -> dict[str, Any]:
    """The canonical document of the second-order work."""
    document = {
        "interval": kfac.interval,
        "refreshes": kfac.refreshes,
        "inversion": kfac.inversion.value,
        "step_barrier": kfac.step_barrier.value,
        "factor_barrier": kfac.factor_barrier.value,
        "replicas": kfac.replicas,
        "latency": number(kfac.latency),
        "bandwidth": optional(kfac.bandwidth),
    }
    return without(document, defaults_of(KfacFields))
