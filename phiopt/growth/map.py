"""w[u]: where every coordinate of the teacher sits in the student (paper, section 4, the second term)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from phiopt._checks import instance, part, seed_of, two_models
from phiopt._files import check_path, new_file
from phiopt._modules import global_lock, state_of
from phiopt._randomness import preserved_randomness
from phiopt._types import Lift, Params
from phiopt.growth.contents import MapContents
from phiopt.growth.derive import derive
from phiopt.growth.given import check_models, check_shape, check_tensors
from phiopt.growth.placement import Placement
from phiopt.growth.plot import plot
from phiopt.growth.storage import load, save
from phiopt.growth.table import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class GrowthMap(MapContents):
    """The injective map of the teacher's parameters and buffers into the student's.

    Built by `between`, which follows the computation of both models. All its methods take and return dictionaries
    of tensors by qualified name and modify none of them.

    Attributes:
        lift: ψ, as given or inferred (`phiopt.lift`).
        classes: Student output of each teacher class, shape ``(c1,)``, int64.
        class_axis: Axis of the model's output that holds the classes.
        placements: By the teacher's name of each tensor, where it sits.
        fresh: Shape of each student tensor that holds nothing of the teacher's, by name.
        traced: Shape and dtype of the example batch; ``None`` if unknown.
        inexact_reasons: Layers where no growth keeps the function exactly, and why; empty when one does.
        inserted: Operations that only the student has, and how their tensors start so that they change nothing.
        aliases: First names of the tied tensors of the teacher and of the student, by their other names.
        correspondence: What is known of both traces; ``None`` for a loaded map.
    """

    @classmethod
    @global_lock()
    def between(
        cls,
        teacher: nn.Module,
        student: nn.Module,
        *,
        lift: Lift | None = None,
        classes: Sequence[int] | Tensor | None = None,
        inputs: Tensor | None = None,
        correspondence: Mapping[str, str] | None = None,
    ) -> GrowthMap:
        """Derive the map from the traced computation of both models.

        Args:
            teacher: The trained model. Run once on tensors without storage, in evaluation mode; never modified.
            student: The larger model. Run and left likewise.
            lift: ψ, a callable from a batch of the teacher's inputs to one of the student's. ``None``: inferred from
                the input shapes. Where a plain callable puts the teacher's coordinates and, for an embedding's rows,
                its tokens, is found by applying it to probes; a `phiopt.lift` object says it.
            classes: Student output index of each teacher class. ``None``: the first ``c1``.
            inputs: A batch of the teacher's inputs, for its shape and dtype. ``None``: a shape is found that the
                teacher accepts.
            correspondence: Teacher's module names to student's, where the graphs alone do not settle it, as
                ``{"layer1.0": "layer1.0"}``. What it says holds, or is refused by name.

        Raises:
            AlignmentError: The models cannot be matched, or a student's layer is smaller than its teacher's.
            ValueError: A bad argument, named.

        Examples:
            >>> import phiopt, torch.nn as nn
            >>> small = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            >>> large = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 5))
            >>> phiopt.GrowthMap.between(small, large).mask()["2.weight"].sum()
            tensor(24)
        """
        two_models(teacher, student)
        if lift is not None:
            part("lift", lift, "__call__")
        if inputs is not None:
            instance("inputs", inputs, Tensor, "a Tensor, a batch of the teacher's inputs")
        if correspondence is not None:
            instance("correspondence", correspondence, Mapping, "a mapping of module names")
        device = next((x.device for x in state_of(teacher).values()), torch.device("cpu"))
        with preserved_randomness(lift, device, seed=0):  # a forward pass may draw
            return cls(**vars(derive(teacher, student, lift, classes, inputs, correspondence)))

    def embed(self, u: Params, into: Params) -> Params:
        """The teacher's values at their places in a copy of ``into``.

        Args:
            u: Teacher tensors by name; parameters, buffers or both. A tied tensor may come under any of its names.
            into: Student tensors by name, likewise. Those that ``u`` has no part in are copied unchanged.

        Returns:
            New tensors of the shapes, dtypes and devices of ``into``; differentiable in both.

        Raises:
            ValueError: A name or a shape that the map does not know, or tied names of ``u`` with other values each.
            TypeError: A value that is no tensor.
        """
        check_tensors("u", u)
        check_tensors("into", into)
        out = {name: value.clone() for name, value in into.items()}
        for name, value in self._by_first_name(u).items():
            place = self._placement(name, value)
            names = self._student_names(place, out)
            if not names:
                raise ValueError(f"into lacks {place.student!r}, where the teacher's {name!r} sits")
            target = out[names[0]]
            check_shape("into", names[0], target, place.shape)
            if place.shape:
                target[place.index(target.device)] = value.to(target)
            else:
                target = value.to(target).clone()
            out.update(dict.fromkeys(names, target))
        return out

    def extract(self, w: Params) -> Params:
        """w[u]: the student's values at the teacher's places, by the teacher's names; differentiable in ``w``.

        Teacher tensors whose student tensor is not in ``w`` are left out; ``extract(embed(u, w0)) == u`` exactly.

        Raises:
            ValueError: A name or a shape that is not the student's.
            TypeError: A value that is no tensor.
        """
        check_tensors("w", w)
        known = {p.student for p in self.placements.values()} | {*self.fresh, *self.aliases[1]}
        unknown = [name for name in w if name not in known]
        if unknown:
            raise ValueError(
                f"w has {unknown[0]!r}, which the student lacks; it has {', '.join(sorted(known))}"
            )
        out = {}
        for name, place in self.placements.items():
            for held in self._student_names(place, w)[:1]:
                value = w[held]
                check_shape("w", held, value, place.shape)
                out[name] = value[place.index(value.device)] if place.shape else value
        return out

    def mask(self) -> dict[str, Tensor]:
        """By the student's names, boolean tensors that are True where a coordinate comes from the teacher."""
        out = {
            p.student: torch.zeros(p.shape, dtype=torch.bool, device="cpu")
            for p in self.placements.values()
        }
        for name, shape in self.fresh.items():
            out[name] = torch.zeros(shape, dtype=torch.bool, device="cpu")
        for place in self.placements.values():
            out[place.student][place.index() if place.shape else ...] = True
        return out

    def example(self, seed: int = 0) -> Tensor:
        """A random batch of 8 inputs of the teacher's, of the shape that the map was traced with."""
        seed = seed_of(seed)
        if self.traced is None:
            raise ValueError("this map was not traced here; pass inputs=")
        shape, dtype = self.traced
        generator = torch.Generator().manual_seed(seed)
        if dtype.is_floating_point:
            return torch.randn(8, *shape[1:], generator=generator, dtype=dtype, device="cpu")
        return torch.randint(2, (8, *shape[1:]), generator=generator, device="cpu").to(dtype)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """A figure of each matrix's blocks: the teacher's, new rows and new columns, readable in grey.

        Args:
            path: Where to save it, whole or not at all; the suffix gives the format, PNG where there is none.

        Raises:
            ValueError, OSError: No picture can be written there.
            ImportError: matplotlib is not installed.
        """
        if path is not None:
            new_file("path", path)
        return plot(self, path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the map to a safetensors file with a JSON header, in one step; no pickle."""
        new_file("path", path)
        save(self, path)

    @staticmethod
    def load(
        path: str | os.PathLike[str],
        teacher: nn.Module,
        student: nn.Module,
        *,
        lift: Lift | None = None,
    ) -> GrowthMap:
        """Read what :meth:`save` wrote. The loaded map embeds, extracts and masks; fills that keep the function need
        the traced models, hence :meth:`between`.

        Args:
            path: The file.
            teacher: Of the names and shapes that the map was made for; checked.
            student: The same.
            lift: ψ, needed where the saved map had a plain callable, which no file can hold.

        Raises:
            ValueError: The file is no map, belongs to other models (the message says what differs), or ``lift`` is
                missing or superfluous.
        """
        check_path("path", path)
        for role, module in (("teacher", teacher), ("student", student)):
            instance(role, module, nn.Module, "an nn.Module")
        if lift is not None:
            part("lift", lift, "__call__")
        return GrowthMap(**vars(load(path, teacher, student, lift)))

    def __str__(self) -> str:
        return table(self)

    def __repr__(self) -> str:
        return f"<GrowthMap of {len(self.placements)} tensors, lift={self.lift}>"

    def check_models(self, teacher: nn.Module, student: nn.Module) -> None:
        """The map is of these models.

        Raises:
            ValueError: It was made for others; the message says what differs.
        """
        placed = {name: place.teacher_shape for name, place in self.placements.items()}
        there = {p.student: p.shape for p in self.placements.values()} | self.fresh
        check_models(placed, there, teacher, student)

    def _by_first_name(self, u: Params) -> Params:
        """The teacher's tensors, each once: tied ones under their first name."""
        out: dict[str, Tensor] = {}
        for name, value in u.items():
            first = self.aliases[0].get(name, name)
            if first in out and out[first] is not value and not torch.equal(out[first], value):
                raise ValueError(
                    f"u[{name!r}] differs from u[{first!r}], which the teacher ties: it is one tensor"
                )
            out.setdefault(first, value)
        return out

    def _student_names(self, place: Placement, w: Params) -> list[str]:
        """The names under which ``w`` has the tensor that ``place`` is in; a tied one has several."""
        others = [name for name, first in self.aliases[1].items() if first == place.student]
        return [name for name in (place.student, *others) if name in w]

    def _placement(self, name: str, value: Tensor) -> Placement:
        if name not in self.placements:
            raise ValueError(
                f"u has {name!r}, which the map does not know; it knows {', '.join(self.placements)}"
            )
        place = self.placements[name]
        check_shape("u", name, value, place.teacher_shape)
        return place
