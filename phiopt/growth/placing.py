"""From the correspondence to placements: of the tensors that the forward pass uses, and of the others."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from phiopt._warnings import warn
from phiopt.growth.correspond import Correspondence
from phiopt.growth.errors import AlignmentError, Side
from phiopt.growth.index_map import index_map
from phiopt.growth.named import Named
from phiopt.growth.pairs import TensorPlace
from phiopt.growth.placement import Placement
from phiopt.growth.runs import inside


def placement(place: TensorPlace, used: Mapping[str, tuple[int, ...]]) -> Placement:
    return Placement(
        place.student,
        used[place.student],
        tuple(torch.from_numpy(index_map(a.term).copy()) for a in place.axes),
        frozenset(place.input_axes),
    )


def match_unused(
    state: Correspondence,
    small: Mapping[str, tuple[int, ...]],
    large: Mapping[str, tuple[int, ...]],
    names: Named,
) -> dict[str, Placement]:
    """Place the tensors outside the forward pass, such as step counters and auxiliary heads: in the module to which
    their own module is matched, with the teacher's coordinates first."""
    modules = {t.rpartition(".")[0]: p.student.rpartition(".")[0] for t, p in state.places.items()}
    taken = {p.student for p in state.places.values()}
    out: dict[str, Placement] = {}
    homeless = []
    for name, shape in small.items():
        gone = name in state.gone or any(inside(name, block) for block in state.left_out)
        if name in state.places or gone:
            continue
        module, _, leaf = name.rpartition(".")
        image = names.renamed(module)
        if image is None:
            image = modules.get(module, module)
        partner = f"{image}.{leaf}".lstrip(".")
        there = large.get(partner, ())
        fits = len(there) == len(shape) and all(s >= t for t, s in zip(shape, there, strict=True))
        if partner not in large or not fits or partner in taken:
            homeless.append(name)
            continue
        taken.add(partner)
        out[name] = Placement(partner, there, tuple(torch.arange(n, device="cpu") for n in shape))
    if homeless:
        warn(
            f"{', '.join(homeless)}: not used in evaluation mode and without a counterpart of at least its shape; left "
            "out of the map"
        )
    return out


def check_injective(placements: Mapping[str, Placement]) -> None:
    seen: dict[str, str] = {}
    for name, place in placements.items():
        if place.student in seen:
            raise AlignmentError(
                f"{seen[place.student]} and {name} of the teacher both sit in {place.student}, which the student ties",
                "Untie it in the student, or tie it in the teacher too",
                teacher=Side.of_tensor(name, place.teacher_shape),
                student=Side.of_tensor(place.student, place.shape),
            )
        seen[place.student] = name
