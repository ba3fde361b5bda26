"""The growth map as a table."""

from __future__ import annotations

from torch import Tensor

from phiopt.growth.contents import MapContents
from phiopt.growth.placement import Placement


def table(growth: MapContents) -> str:
    """One row for each tensor: names, shapes, the teacher's block, the input axes, the share of coordinates carried."""
    rows = [("teacher", "student", "teacher shape", "student shape", "at", "input axes", "carried")]
    carried = total = 0
    for name, place in growth.placements.items():
        old, new = _count(place.teacher_shape), _count(place.shape)
        carried, total = carried + old, total + new
        input_axes = ",".join(str(d) for d in sorted(place.input_axes)) or "-"
        rows.append(
            (
                name,
                place.student,
                _shape(place.teacher_shape),
                _shape(place.shape),
                where(place),
                input_axes,
                _share(old, new),
            )
        )
    for name, shape in growth.fresh.items():
        total += _count(shape)
        rows.append(("-", name, "-", _shape(shape), "new", "-", _share(0, _count(shape))))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * w for w in widths))
    lines.append(
        f"{carried} of {total} coordinates carried ({_share(carried, total)}); lift: {growth.lift}"
    )
    lines += [
        f"{place.student}, axis {axis}: {moved}"
        for place in growth.placements.values()
        for axis, at in enumerate(place.index_maps)
        if (moved := _moved(at))
    ]
    lines += [f"not exact: {reason}" for reason in growth.inexact_reasons]
    return "\n".join(lines)


def _moved(index_map: Tensor, most: int = 16) -> str:
    """The index map of an axis whose coordinates change their order; empty if they keep it."""
    listed = index_map.tolist()
    if listed == sorted(listed):
        return ""
    more = len(listed) - most
    shown = ", ".join(map(str, range(min(len(listed), most)))), ", ".join(map(str, listed[:most]))
    rest = f", ... {more} more, see placements" if more > 0 else ""
    return f"{shown[0]} -> {shown[1]}{rest}"


def where(place: Placement) -> str:
    """The student's coordinates of the teacher's on each axis, as ranges."""
    return "[" + ", ".join(_ranges(p) for p in place.index_maps) + "]"


def _ranges(index_map: Tensor, most: int = 4) -> str:
    runs: list[list[int]] = []
    for p in index_map.tolist():
        if runs and p == runs[-1][1]:
            runs[-1][1] = p + 1
        else:
            runs.append([p, p + 1])
    shown = [f"{a}:{b}" for a, b in runs[:most]]
    return "+".join(shown) + (f"+... {len(runs) - most} more" if len(runs) > most else "")


def _count(shape: tuple[int, ...]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f} %"
