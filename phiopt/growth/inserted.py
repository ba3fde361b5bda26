"""How the parameters of operations that only the student has start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ON_THE_STREAM = (
    ". It normalises the stream itself, as in a post-norm layer: no values make such a layer the identity. The nearest "
    "is a layer whose branches add nothing, and whose norm has the stream's usual mean as bias and deviation as weight"
)
"""What a map says of an inserted normalisation of the stream."""


@dataclass(frozen=True)
class Inserted:
    """How the parameters of one inserted operation start, so that it changes nothing.

    Attributes:
        how: ``"identity"``: the operation passes its input on. ``"zero"``: a residual branch adds nothing.
            ``"stream"``: a normalisation of the stream undoes itself as far as it can.
            ``"constant"``: a parameter that the teacher's layer lacks, or that closes a branch, has the ``value`` with
            which it does nothing.
            ``"taken-off"``: a weight is less by what a sum adds that only the student has; see `taken_off`.
        module: Path of the student's module.
        weight: The student's name of the parameter that multiplies.
        bias: The student's name of the parameter that is added.
        eps: What a normalisation adds to its variance.
        value: The value of a constant; of ``"taken-off"``, the first column that reads what is added.
        made_by: Of ``"stream"``, the weight and the bias of the normalisation that made the stream, by the student's
            names. An empty name stands for none. Of ``"taken-off"``, the weight and the running variance.
    """

    how: Literal["identity", "zero", "constant", "stream", "taken-off"]
    module: str
    weight: str | None
    bias: str | None
    eps: float = 0.0
    value: float = 1.0
    made_by: tuple[str, str] = ("", "")


def constant(name: str, value: float, how: Literal["constant", "zero"] = "constant") -> Inserted:
    """How a parameter starts that has one value everywhere."""
    return Inserted(how, name.rpartition(".")[0], name, None, value=value)
