"""A sum that only the student has, of a normalised product and one of the joined tensors that the product reads.

With weights W, columns A of them for x, and the statistics and the parameters of a batch norm, the student computes
``γ (A x + B y - μ) / σ + β + x``. This is the teacher's value if ``σ / γ`` is taken off the diagonal of A.
"""

from __future__ import annotations

from torch import Tensor

from phiopt._types import Params
from phiopt.growth.catalogue import facts
from phiopt.growth.graph import Trace, Value
from phiopt.growth.inserted import Inserted


def taken_off(trace: Trace, made: Value, read: Value) -> Inserted | None:
    """How weights start that take off again what is added; ``None`` if ``made`` is no product that reads ``read``."""
    norm = trace.producers.get(made.id)
    if norm is None or facts(norm.name).inserted != "statistics" or norm.arguments.get("training"):
        return None
    product = trace.producers.get(norm.arguments["input"].id)
    if product is None or not facts(product.name).product or "groups" not in product.arguments:
        return None
    joined = trace.producers.get(product.arguments["input"].id)
    given = product.arguments["weight"]
    names = [
        trace.tensors.get(x.id) if isinstance(x, Value) else None
        for x in (given, norm.arguments["weight"], norm.arguments["running_var"])
    ]
    if joined is None or not facts(joined.name).joins or not all(names):
        return None
    tensors = joined.arguments["tensors"]
    of_each_pixel = set(given.shape[2:]) == {1} and set(product.arguments["stride"]) == {1}
    grouped = product.arguments["groups"] != 1 or product.arguments["transposed"]
    if grouped or not of_each_pixel or joined.arguments["dim"] != 1 or read not in tensors:
        return None
    if made.shape != read.shape:
        return None
    first = sum(v.shape[1] for v in tensors[: tensors.index(read)])
    weight, scale, variance = names
    made_by = (scale or "", variance or "")
    eps = float(norm.arguments["eps"])
    return Inserted("taken-off", product.module, weight, None, eps, float(first), made_by)


def without(layer: Inserted, tensors: Params) -> dict[str, Tensor]:
    """The weight of a product whose columns for the tensor that is added are less by what the sum adds."""
    assert layer.weight is not None
    weight = tensors[layer.weight].clone()
    scale, variance = (tensors[name].to(weight) for name in layer.made_by)
    less = ((variance + layer.eps).sqrt() / scale).reshape(-1, *[1] * (weight.ndim - 2))
    first = int(layer.value)
    diagonal = weight[:, first : first + len(weight)].diagonal().movedim(-1, 0)
    diagonal -= less
    return {layer.weight: weight}
