"""A growth map as a file: the places as tensors, the rest as JSON."""

from __future__ import annotations

import os
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from phiopt import _files
from phiopt import lift as lifts
from phiopt._types import Lift
from phiopt.growth.insertion import Inserted
from phiopt.growth.placement import Placement
from phiopt.growth.trace import tensors_of

if TYPE_CHECKING:
    from phiopt.growth.map import GrowthMap

_KIND = "growth map"
_LIFTS: dict[str, Any] = {
    kind.__name__: kind for kind in (lifts.Identity, lifts.Pad, lifts.Channels, lifts.Resize)
}


def save(growth: GrowthMap, path: str | os.PathLike[str]) -> None:
    """Write ``growth``; axes whose coordinates keep their order need no tensor."""
    tensors = {"classes": growth.classes}
    for name, place in growth.placements.items():
        for axis, at in enumerate(place.places):
            if not _plain(at):
                tensors[f"{name}/{axis}"] = at
    about = {
        "lift": _described(growth.lift),
        "class_axis": growth.class_axis,
        "remarks": growth.remarks,
        "inserted": [asdict(layer) for layer in growth.inserted],
        "fresh": growth.fresh,
        "example": growth.traced and [growth.traced[0], str(growth.traced[1])],
        "placements": {
            name: {
                "student": place.student,
                "shape": place.shape,
                "teacher_shape": place.teacher_shape,
                "contracted": sorted(place.contracted),
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
) -> dict[str, Any]:
    """Everything that a `GrowthMap` holds, by name, checked against the models."""
    tensors, about = _files.read(path, _KIND)
    placed = about["placements"]
    expected = {name: tuple(p["teacher_shape"]) for name, p in placed.items()}
    there = {p["student"]: tuple(p["shape"]) for p in placed.values()}
    fresh = {name: tuple(shape) for name, shape in about["fresh"].items()}
    _files.check(
        path,
        _files.differences("teacher", expected, _shapes(teacher))
        + _files.differences("student", there | fresh, _shapes(student))
        + [f"student has {name} too" for name in _shapes(student) if name not in there | fresh],
    )
    placements = {
        name: Placement(
            p["student"],
            tuple(p["shape"]),
            tuple(
                tensors.get(f"{name}/{axis}", torch.arange(n, device="cpu"))
                for axis, n in enumerate(p["teacher_shape"])
            ),
            frozenset(p["contracted"]),
        )
        for name, p in placed.items()
    }
    example = about["example"]
    return {
        "placements": placements,
        "lift": _lift(path, about["lift"], lift),
        "classes": tensors["classes"],
        "class_axis": about["class_axis"],
        "remarks": about["remarks"],
        "inserted": [Inserted(**layer) for layer in about["inserted"]],
        "fresh": fresh,
        "traced": example
        and (tuple(example[0]), getattr(torch, example[1].removeprefix("torch."))),
    }


def _plain(places: Tensor) -> bool:
    return bool((places == torch.arange(len(places), device="cpu")).all())


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors_of(module).items()}


def _described(lift: Lift) -> dict[str, Any] | None:
    """A lift of `phiopt.lift` by its name and arguments; None for any other callable."""
    if isinstance(lift, lifts.Compose):
        parts = [_described(part) for part in lift.lifts]
        return None if None in parts else {"kind": "Compose", "lifts": parts}
    if type(lift) not in _LIFTS.values():
        return None
    assert isinstance(lift, lifts.Identity | lifts.Pad | lifts.Channels | lifts.Resize)
    return {"kind": type(lift).__name__} | {f.name: getattr(lift, f.name) for f in fields(lift)}


def _lift(
    path: str | os.PathLike[str], described: dict[str, Any] | None, given: Lift | None
) -> Lift:
    if (described is None) == (given is None):
        what = "needs it, as a callable cannot be saved" if described is None else "has its own"
        raise ValueError(f"lift={given!r}: the map in {path} {what}")
    return given if described is None else _made(described)  # type: ignore[return-value]


def _made(described: dict[str, Any]) -> lifts.PlacedLift:
    options = {k: tuple(v) if k == "size" else v for k, v in described.items() if k != "kind"}
    if described["kind"] == "Compose":
        return lifts.Compose(*(_made(part) for part in options["lifts"]))
    made: lifts.PlacedLift = _LIFTS[described["kind"]](**options)
    return made
