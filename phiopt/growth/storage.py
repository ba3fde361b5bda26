"""A growth map as a file: the index maps as tensors, the rest as JSON.

The names in the file belong to its format and stay when attributes are renamed.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor, nn

from phiopt import _files
from phiopt import lift as lifts
from phiopt._json import WHOLE, Field
from phiopt._modules import state_of, unsaved
from phiopt._shown import shown
from phiopt._types import Lift
from phiopt.growth.contents import MapContents
from phiopt.growth.inserted import Inserted
from phiopt.growth.placement import Placement
from phiopt.growth.trace import aliases_of

_KIND = "growth map"
_FIELDS = ("lift", "class_axis", "remarks", "inserted", "fresh", "example", "placements")
_NESTED = 20
"""Largest depth of lifts composed of lifts."""
_LIFTS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (lifts.Identity, lifts.Pad, lifts.Channels, lifts.Resize, lifts.Tokens)
}


def save(growth: MapContents, path: str | os.PathLike[str]) -> None:
    """Write ``growth``. An axis that puts the teacher first needs no tensor."""
    tensors = {"classes": growth.classes}
    for name, place in growth.placements.items():
        for axis, at in enumerate(place.index_maps):
            if not _plain(at):
                tensors[f"{name}/{axis}"] = at
    about = {
        "lift": _described(growth.lift),
        "class_axis": growth.class_axis,
        "remarks": growth.inexact_reasons,
        "inserted": [asdict(layer) for layer in growth.inserted],
        "fresh": growth.fresh,
        "example": growth.traced
        and growth.beside is None
        and [growth.traced[0], str(growth.traced[1])],
        "placements": {
            name: {
                "student": place.student,
                "shape": place.shape,
                "teacher_shape": place.teacher_shape,
                "contracted": sorted(place.input_axes),
            }
            for name, place in growth.placements.items()
        },
    }
    _files.write(path, _KIND, tensors, about)


def load(
    path: str | os.PathLike[str],
    teacher: nn.Module,
    student: nn.Module,
    lift: Lift | None,
) -> MapContents:
    """Read what `save` wrote, and check it against the models.

    Raises:
        ValueError: The file is no map, or belongs to other models, or ``lift`` is missing or superfluous.
    """
    tensors, header = _files.read(path, _KIND)
    about = header.members(_FIELDS)
    placed = {name: _Placed.of(place) for name, place in about["placements"].members().items()}
    expected = {name: place.teacher_shape for name, place in placed.items()}
    there = {place.student: place.shape for place in placed.values()}
    fresh = {name: _shape(shape) for name, shape in about["fresh"].members().items()}
    _files.check(
        path,
        _files.differences("teacher", expected, _shapes(teacher))
        + _files.differences("student", there | fresh, _shapes(student))
        + [f"student has {name} too" for name in _shapes(student) if name not in there | fresh],
    )
    example = about["example"]
    contents = MapContents(
        {
            name: place.filled(
                [tensors.pop(f"{name}/{axis}", None) for axis in range(len(place.shape))], name
            )
            for name, place in placed.items()
        },
        lift=_lift(path, about["lift"], lift),
        classes=_indices(tensors.pop("classes", None), header.where, "classes"),
        class_axis=about["class_axis"].whole(-8, 8),
        inexact_reasons=[reason.text() for reason in about["remarks"].items()],
        inserted=[_inserted(layer) for layer in about["inserted"].items()],
        fresh=fresh,
        aliases=(aliases_of(teacher), aliases_of(student)),
        unplaced=unsaved(teacher),
        traced=_example(example) if example.value else None,
    )
    if tensors:
        raise ValueError(f"{header.where}: its tensor {next(iter(tensors))!r} is none of a map's")
    return contents


@dataclass(frozen=True)
class _Placed:
    """A placement as the header describes it, without its index maps."""

    field: Field
    student: str
    shape: tuple[int, ...]
    teacher_shape: tuple[int, ...]
    input_axes: frozenset[int]

    @staticmethod
    def of(field: Field) -> _Placed:
        parts = field.members(("student", "shape", "teacher_shape", "contracted"))
        shape, teacher_shape = _shape(parts["shape"]), _shape(parts["teacher_shape"])
        if len(shape) != len(teacher_shape):
            raise parts["teacher_shape"].wrong(f"of {len(shape)} axes, as the student's")
        axes = [axis.whole(0, len(shape) - 1) for axis in parts["contracted"].items()]
        return _Placed(field, parts["student"].text(), shape, teacher_shape, frozenset(axes))

    def filled(self, index_maps: list[Tensor | None], name: str) -> Placement:
        """The placement with its index maps. ``None`` stands for an axis that puts the teacher first."""
        checked = []
        for axis, (at, size, most) in enumerate(
            zip(index_maps, self.teacher_shape, self.shape, strict=True)
        ):
            at = torch.arange(size, device="cpu") if at is None else at
            checked.append(_indices(at, self.field.where, f"{name}/{axis}", size, most))
        return Placement(self.student, self.shape, tuple(checked), self.input_axes)


def _indices(
    at: Tensor | None, where: str, name: str, size: int | None = None, most: int = WHOLE
) -> Tensor:
    """Check that ``at`` has ``size`` different coordinates of an axis of size ``most``."""
    if at is None:
        raise ValueError(f"{where}: its tensor {name!r} is missing")
    what = f"{where}: its tensor {name!r}"
    if at.dtype != torch.int64 or at.ndim != 1 or len(at) != (len(at) if size is None else size):
        many = "" if size is None else f"{size} "
        raise ValueError(
            f"{what} is {at.dtype} of shape {tuple(at.shape)}, must be {many}whole numbers (int64)"
        )
    if len(at) and (int(at.min()) < 0 or int(at.max()) >= most):
        raise ValueError(
            f"{what} runs from {int(at.min())} to {int(at.max())}, must lie in 0 ... {most - 1}"
        )
    if len(at.unique()) < len(at):
        raise ValueError(f"{what} gives a coordinate twice, each may be given once")
    return at


def _shape(field: Field) -> tuple[int, ...]:
    return tuple(size.whole(0) for size in field.items())


def _inserted(field: Field) -> Inserted:
    parts = field.members(f.name for f in fields(Inserted))
    weight, bias = (
        None if parts[key].value is None else parts[key].text() for key in ("weight", "bias")
    )
    how = parts["how"].text(get_args(get_type_hints(Inserted)["how"]))
    numbers = parts["eps"].number(), parts["value"].number()
    made_by = tuple(name.text() for name in parts["made_by"].items())
    if len(made_by) != 2:
        raise parts["made_by"].wrong("the names of a weight and of a bias")
    return Inserted(how, parts["module"].text(), weight, bias, *numbers, made_by)  # type: ignore[arg-type]


def _example(field: Field) -> tuple[tuple[int, ...], torch.dtype]:
    parts = field.items()
    if len(parts) != 2:
        raise field.wrong("a shape and a dtype")
    dtype = getattr(torch, parts[1].text().removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype):
        raise parts[1].wrong("the name of a dtype")
    return _shape(parts[0]), dtype


def _plain(index_map: Tensor) -> bool:
    return bool((index_map == torch.arange(len(index_map), device="cpu")).all())


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state_of(module).items()}


def _described(lift: Lift) -> dict[str, Any] | None:
    """A lift of `phiopt.lift` by its name and arguments; ``None`` for any other callable."""
    if isinstance(lift, lifts.Compose):
        parts = [_described(part) for part in lift.lifts]
        return None if None in parts else {"kind": "Compose", "lifts": parts}
    if type(lift) not in _LIFTS.values():
        return None
    assert isinstance(
        lift, lifts.Identity | lifts.Pad | lifts.Channels | lifts.Resize | lifts.Tokens
    )
    return {"kind": type(lift).__name__} | {f.name: getattr(lift, f.name) for f in fields(lift)}


def _lift(path: str | os.PathLike[str], described: Field, given: Lift | None) -> Lift:
    if (described.value is None) == (given is None):
        what = "needs it, as a callable cannot be saved" if given is None else "has its own"
        raise ValueError(f"lift={shown(given)}: the map in {path} {what}")
    return _made(described) if given is None else given


def _made(described: Field, depth: int = 0) -> lifts.PlacedLift:
    parts = described.members(["kind"])
    kind = parts.pop("kind").text(["Compose", *_LIFTS])
    if kind == "Compose":
        parts = described.members(["lifts"])
        if depth > _NESTED:
            raise parts["lifts"].wrong(f"nested at most {_NESTED} deep")
        composed = [_made(part, depth + 1) for part in parts["lifts"].items()]
        if not composed:
            raise parts["lifts"].wrong("at least one lift")
        return lifts.Compose(*composed)
    options = {k: _shape(v) if isinstance(v.value, list) else v.value for k, v in parts.items()}
    try:
        made: lifts.PlacedLift = _LIFTS[kind](**options)
    except (TypeError, ValueError, OverflowError) as error:
        raise described.wrong(f"the arguments of a {kind}: {error}") from error
    return made
