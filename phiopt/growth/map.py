"""w[u]: which coordinates of the student hold the teacher's (paper, section 4, the second term)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from phiopt._checks import flag, instance, part, seed_of, two_models
from phiopt._given import GivenInputs, inputs_of
from phiopt._inputs import Inputs, with_main
from phiopt._modules import global_lock, state_of
from phiopt._order import in_order
from phiopt._paths import check_path, new_file
from phiopt._randomness import preserved_randomness
from phiopt._types import Function, Lift, Params
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

    `between` builds it by following the computation of both models. The methods take and return dictionaries of tensors
    by qualified name, and modify none of them.

    Attributes:
        lift: ψ, as given or inferred (`phiopt.lift`).
        classes: Student output of each teacher class, shape ``(c1,)``, int64.
        class_axis: Axis of the model's output that holds the classes.
        placements: Where each tensor of the teacher sits, by the teacher's name.
        fresh: Shapes of the student's tensors that hold nothing of the teacher's, by name.
        traced: Shape and dtype of the example batch, of several inputs of the main one; ``None`` if unknown.
        beside: The example batch, where there are several inputs; else ``None``.
        inexact_reasons: Why no growth keeps the function exactly, with the layers; empty if some growth does.
        inserted: Operations that only the student has, and how their tensors start so that they change nothing.
        aliases: First names of the tied tensors of the teacher and of the student, by their other names.
        unplaced: The teacher's buffers that no file holds, which the student has of its own.
        correspondence: What is known of both traces; ``None`` for a loaded map.
    """

    @classmethod
    @in_order
    @global_lock()
    def between(
        cls,
        teacher: nn.Module,
        student: nn.Module,
        *,
        lift: Lift | None = None,
        classes: Sequence[int] | Tensor | None = None,
        inputs: GivenInputs | None = None,
        correspondence: Mapping[str, str] | None = None,
    ) -> GrowthMap:
        """Derive the map from the traced computation of both models.

        Args:
            teacher: The trained model. It runs once in evaluation mode on tensors without storage, and is never
                modified.
            student: The larger model. The same holds for it.
            lift: ψ, a callable from a batch of the teacher's inputs to a batch of the student's. ``None``: the default
                between the shapes of the inputs (`phiopt.lift.infer`), which the map's text names. A `phiopt.lift`
                object says where it puts the teacher's coordinates. Any other callable is applied to probes, which
                show where it puts the coordinates and, for an embedding's rows, the tokens.
            classes: Student output index of each teacher class. ``None``: the first ``c1``; for a `phiopt.lift.Tokens`
                and as many classes as tokens, its tokens.
            inputs: A batch of the teacher's inputs; only its shape and dtype are used. A tensor or an array; a tuple of
                several, by position; or a mapping of several, by name, such as a batch of a tokenizer, without its
                labels. ψ acts on the main one, and the others stay: ``input_ids``, else ``pixel_values``,
                ``inputs_embeds``, ``x``, the first floating one, the first. ``None``: a shape is found that the teacher
                accepts.
            correspondence: Which modules belong together, teacher's names to student's, as
                ``{"layer1.0": "layer1.0"}``. A star stands for a part of a name, as in
                ``{"layers.2.*": "layers.2.*"}``. What is inside a named module is paired inside its counterpart. It is
                needed if the computations alone do not settle it. It holds, or is refused by name.

        Raises:
            AlignmentError: The models cannot be matched, or a layer of the student is smaller than the teacher's.
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
            part("lift", lift, Function)
        given = None if inputs is None else inputs_of("inputs", inputs)
        if correspondence is not None:
            instance("correspondence", correspondence, Mapping, "a mapping of module names")
        device = next((x.device for x in state_of(teacher).values()), torch.device("cpu"))
        with preserved_randomness(lift, device, seed=0):  # a forward pass may draw
            return cls(**vars(derive(teacher, student, lift, classes, given, correspondence)))

    def embed(self, u: Params, into: Params) -> Params:
        """Write the teacher's values into a copy of ``into``, where the map puts them.

        Args:
            u: The teacher's parameters, buffers or both, by name. A tied tensor may come under any of its names.
            into: The student's tensors by name, likewise. Tensors that hold nothing of ``u`` are copied unchanged.

        Returns:
            New tensors of the shapes, dtypes and devices of ``into``. They are differentiable in ``u`` and ``into``.

        Raises:
            ValueError: The map does not know a name or a shape, or tied names of ``u`` have different values.
            TypeError: A value is no tensor.
        """
        check_tensors("u", u)
        check_tensors("into", into)
        out = {name: value.clone() for name, value in into.items()}
        for name, value in self._by_first_name(u).items():
            if name in self.unplaced:
                continue
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
        """w[u]: the student's values where the map puts the teacher's, by the teacher's names.

        The result is differentiable in ``w``, and ``extract(embed(u, w0)) == u`` exactly. Tensors of the teacher whose
        tensor of the student is not in ``w`` are left out.

        Raises:
            ValueError: A name or a shape is not the student's.
            TypeError: A value is no tensor.
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
            for present in self._student_names(place, w)[:1]:
                value = w[present]
                check_shape("w", present, value, place.shape)
                out[name] = value[place.index(value.device)] if place.shape else value
        return out

    def mask(self) -> dict[str, Tensor]:
        """Boolean tensors by the student's names, ``True`` at the coordinates that come from the teacher."""
        out = {
            p.student: torch.zeros(p.shape, dtype=torch.bool, device="cpu")
            for p in self.placements.values()
        }
        for name, shape in self.fresh.items():
            out[name] = torch.zeros(shape, dtype=torch.bool, device="cpu")
        for place in self.placements.values():
            out[place.student][place.index() if place.shape else ...] = True
        return out

    def example(self, seed: int = 0) -> Inputs:
        """A random batch of 8 inputs of the teacher, of the shape with which the map was traced. Of several inputs the
        main one is random, and the others are those with which the map was traced, repeated.
        """
        seed = seed_of(seed)
        if self.traced is None:
            raise ValueError("this map was not traced here; pass inputs=")
        shape, dtype = self.traced
        generator = torch.Generator().manual_seed(seed)
        size = (8, *shape[1:])
        if dtype.is_floating_point:
            main = torch.randn(size, generator=generator, dtype=dtype, device="cpu")
        else:
            main = torch.randint(2, size, generator=generator, device="cpu").to(dtype)
        rows = torch.arange(8, device="cpu") % shape[0]
        return main if self.beside is None else with_main(self.beside[rows], main)

    def plot(self, path: str | os.PathLike[str] | None = None, *, layers: bool = False) -> Figure:
        """A figure of the blocks of each matrix: the teacher's, new rows and new columns, in four greys. With
        ``layers`` a figure of the whole growth: for each layer the share of its coordinates that are the teacher's.

        Args:
            path: The file to save it in, whole or not at all. The suffix gives the format; without one it is PNG.
            layers: A bar for each layer, in place of a panel for each matrix. Default False.

        Raises:
            ValueError, OSError: No picture can be written at ``path``.
            ImportError: matplotlib is not installed.
        """
        if path is not None:
            new_file("path", path)
        return plot(self, path, layers=flag("layers", layers))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the map to a safetensors file with a JSON header and no pickle, whole or not at all."""
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
        """Read what :meth:`save` wrote. The loaded map embeds, extracts and masks. Fills that keep the function need
        the traced models, and so a map of :meth:`between`.

        Args:
            path: The file.
            teacher: A module of the names and shapes for which the map was made; this is checked.
            student: The same of the student.
            lift: ψ. It is needed if the saved map had a plain callable, which no file can hold.

        Raises:
            ValueError: The file is no map, or belongs to other models (the message says what differs), or ``lift`` is
                missing or superfluous.
        """
        check_path("path", path)
        for role, module in (("teacher", teacher), ("student", student)):
            instance(role, module, nn.Module, "an nn.Module")
        if lift is not None:
            part("lift", lift, Function)
        return GrowthMap(**vars(load(path, teacher, student, lift)))

    def __str__(self) -> str:
        return table(self)

    def __repr__(self) -> str:
        return f"<GrowthMap of {len(self.placements)} tensors, lift={self.lift}>"

    def check_models(self, teacher: nn.Module, student: nn.Module) -> None:
        """Check that the map is of these models.

        Raises:
            ValueError: It was made for others; the message says what differs.
        """
        placed = {name: place.teacher_shape for name, place in self.placements.items()}
        there = {p.student: p.shape for p in self.placements.values()} | self.fresh
        check_models(placed, there, teacher, student)

    def _by_first_name(self, u: Params) -> Params:
        """The teacher's tensors, each once. A tied tensor has its first name."""
        out: dict[str, Tensor] = {}
        for name, value in u.items():
            first = self.aliases[0].get(name, name)
            if first in out and out[first] is not value and not torch.equal(out[first], value):
                raise ValueError(
                    f"u[{name!r}] differs from u[{first!r}], which the teacher ties: they are the same tensor"
                )
            out.setdefault(first, value)
        return out

    def _student_names(self, place: Placement, w: Params) -> list[str]:
        """The names in ``w`` of the student's tensor of ``place``. A tied tensor has several."""
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
