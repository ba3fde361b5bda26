"""A student grown by a function-preserving fill, held against its teacher on numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from phiopt._attention import plain_attention
from phiopt._modules import copied
from phiopt._types import Lift, Params
from phiopt.growth.correspond import AlignmentError
from phiopt.growth.departure import Comparison, Difference, Gap, matched, on_teacher
from phiopt.growth.example import REFUSALS
from phiopt.growth.map import GrowthMap
from phiopt.growth.places import places
from phiopt.growth.probes import probes
from phiopt.growth.trace import Trace, tensors_of, trace

CHEAP = 2**26
"""Coordinates of both models together up to which they are held against each other in float64."""
CLOSE = 1e-12
"""Relative difference that is rounding in float64 whatever the models; a larger one is asked about."""
ROUNDINGS = 32.0
"""Difference that counts as none, in units of what one rounding of every parameter does to the teacher's outputs."""

Make = Callable[[Params, Params], Params]
"""The grown student's tensors from the teacher's and those of the student as constructed."""


@torch.inference_mode(False)
@torch.no_grad()
def verify(
    teacher: nn.Module,
    student: nn.Module,
    map: GrowthMap,
    make: Make,
    grown: Params,
    *,
    fill: str,
    inputs: Tensor | None = None,
    seed: int = 0,
) -> str | None:
    """Compare the student at ψ(x) with its teacher at x, both in evaluation mode.

    The growth is done once more in float64, where rounding hides little, on batches of two examples of several
    sizes. What is judged as rounding is measured: the change of the teacher's outputs when every parameter is moved
    by one rounding of the coarsest dtype in either forward pass. Large models, and those that run in their own dtype
    and on their own device alone, are compared as they are.

    Args:
        make: Makes the grown student's tensors; called with copies in float64 too.
        grown: What it made of the models as they are.
        fill: Its name.
        inputs: A batch of the teacher's inputs; ``None``: random ones.

    Returns:
        Why nothing could be verified, or None.

    Raises:
        AlignmentError: They differ; the message names the first operations that part, with their modules.
    """
    if map.correspondence is None or map.traced is None:
        return "the map was loaded from a file"
    start = tensors_of(student)
    sizes = [x.numel() for x in (*tensors_of(teacher).values(), *start.values())]
    reason: str | None = None
    for double in (True, False) if sum(sizes) <= CHEAP else (False,):
        models = tuple(_Model.of(m, double) for m in (teacher, student))
        if double:
            large = make(models[0].tensors, models[1].tensors)
            stray = _stray(grown, large)
            if stray is not None:
                raise AlignmentError(
                    f"{stray} of the grown student differs from the same growth in float64 by more than rounding: its "
                    "dtype cannot hold the values"
                )
        else:
            large = {name: value.clone() for name, value in grown.items()}
        check = _Check(map, models[0], models[1].holding(large), make, models[1].tensors)
        with _as_found(models[0].device):
            try:
                found = check.run(list(probes(map, inputs, seed)), seed)
            except REFUSALS as error:
                reason = f"the forward pass fails on an example: {error}; pass inputs="
                continue
        if isinstance(found, str) or found is None:
            return found
        raise AlignmentError(found.describe(fill, teacher, student))
    return reason


@dataclass(frozen=True)
class _Model:
    """A model as a function of its tensors: a copy without its owner's hooks, in evaluation mode."""

    module: nn.Module
    tensors: Params

    @classmethod
    def of(cls, module: nn.Module, double: bool) -> _Model:
        copy = copied(module).eval()
        for part in copy.modules():
            _unhook(part)
        return cls(copy, {n: _copy(x, double) for n, x in tensors_of(copy).items()})

    def holding(self, tensors: Params) -> _Model:
        return _Model(self.module, tensors)

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors.values())).device

    @property
    def dtype(self) -> torch.dtype:
        return next(x.dtype for x in self.tensors.values() if x.is_floating_point())

    def placed(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.dtype if x.is_floating_point() else x.dtype)

    def __call__(self, x: Tensor, seed: int) -> list[Tensor]:
        _seed(seed)
        held = {name: value.clone() for name, value in self.tensors.items()}
        with plain_attention():
            result = torch.func.functional_call(self.module, held, (self.placed(x),))
        return [y for y in tree_leaves(result) if isinstance(y, Tensor)]

    def values(self, x: Tensor, seed: int) -> tuple[Trace, dict[int, Tensor]]:
        _seed(seed)
        held = {name: value.clone() for name, value in self.tensors.items()}
        keep: dict[int, Tensor] = {}
        return trace(self.module, self.placed(x), values=True, tensors=held, keep=keep), keep


class _Check:
    """One comparison in one precision."""

    def __init__(
        self, map: GrowthMap, teacher: _Model, student: _Model, make: Make, constructed: Params
    ) -> None:
        assert map.correspondence is not None
        self._map, self._state = map, map.correspondence
        self._teacher, self._student = teacher, student
        self._make, self._constructed = make, constructed
        self._lift = _evaluating(map.lift, teacher)

    def run(self, batches: Sequence[Tensor], seed: int) -> Difference | str | None:
        """Compare on every batch; one that a forward pass refuses proves nothing."""
        refused: Exception | None = None
        seen: list[list[Tensor]] = []
        for x in batches:
            try:
                old, found = self._compare(x, seed)
            except REFUSALS as error:
                refused = refused or error
                continue
            if found is not None:
                return found
            seen.append(old)
        if _varies(seen):
            return None
        return self._otherwise(batches[0], seed, refused)

    def _otherwise(
        self, x: Tensor, seed: int, refused: Exception | None
    ) -> Difference | str | None:
        """Where no batch told anything: positive inputs below one, then random weights in the teacher."""
        generator = torch.Generator().manual_seed(seed)
        gentle = x
        if x.is_floating_point():
            gentle = torch.rand(x.shape, generator=generator, dtype=x.dtype, device="cpu")
        names = dict(self._teacher.module.named_parameters())
        u = {
            n: _moved(v, 0.3, generator, 0.1) if n in names else v
            for n, v in self._teacher.tensors.items()
        }
        for check, inputs in ((self, gentle), (self._with(u), x), (self._with(u), gentle)):
            try:
                old, found = check._compare(inputs, seed)
            except REFUSALS as error:
                refused = refused or error
                continue
            if found is not None or _varies([old]):
                return found
        if refused is not None:
            raise refused
        return (
            "the teacher's outputs are zero, not finite or the same at every input tried; pass inputs= on which they "
            "vary, or compare the outputs on data"
        )

    def _with(self, u: Params) -> _Check:
        """The same check of a teacher with other weights."""
        w = self._make(u, self._constructed)
        teacher, student = self._teacher.holding(u), self._student.holding(w)
        return _Check(self._map, teacher, student, self._make, self._constructed)

    def _compare(self, x: Tensor, seed: int) -> tuple[list[Tensor], Difference | str | None]:
        x = self._teacher.placed(x)
        z = self._lifted(x)
        old, new = self._teacher(x, seed), self._mapped(self._student(z, seed))
        gaps = [Gap.between(a, b) for a, b in zip(old, new, strict=False) if b is not None]
        if all(gap.relative <= CLOSE for gap in gaps):
            return old, None
        return self._judged(x, z, seed, old, gaps)

    def _judged(
        self, x: Tensor, z: Tensor, seed: int, old: list[Tensor], gaps: list[Gap]
    ) -> tuple[list[Tensor], Difference | str | None]:
        """Is the difference rounding, or chance? Else where is it from?"""
        if self._drawing(x, z, seed):
            return old, (
                "a forward pass draws random numbers or keeps a state in evaluation mode, so that two passes of one "
                "model differ; make it deterministic there, or compare the outputs yourself"
            )
        small, large = self._teacher.values(x, seed), self._student.values(z, seed)
        level = max(_coarsest(*small), _coarsest(*large))
        noise = self._noise(x, seed, old, level)
        worst = 0.0
        for gap, moved in zip(gaps, noise, strict=False):
            floor = level * float(x.abs().max()) if x.is_floating_point() else level
            allowed = ROUNDINGS * max(moved, level * gap.size)
            if gap.size <= ROUNDINGS * floor:  # the teacher's output is rounding itself
                allowed = max(allowed, ROUNDINGS * floor)
            if gap.change > allowed:
                worst = max(worst, gap.relative)
        if not worst:
            return old, None
        values = [
            matched(planned, ran, kept, [given])
            for planned, (ran, kept), given in (
                (self._state.teacher, small, x),
                (self._state.student, large, z),
            )
        ]
        largest = max(gaps, key=lambda gap: gap.relative)
        if values[0] is None or values[1] is None:
            return old, Difference(largest, None)
        tolerance = (level * min(worst, 1.0)) ** 0.5
        return old, Difference(
            largest, Comparison(self._state, values[0], values[1], tolerance).first()
        )

    def _drawing(self, x: Tensor, z: Tensor, seed: int) -> bool:
        """Whether two passes of one model differ."""
        for model, given in ((self._teacher, x), (self._student, z)):
            a, b = model(given, seed), model(given, seed + 1)
            if not all(
                torch.equal(p.nan_to_num(), q.nan_to_num()) for p, q in zip(a, b, strict=True)
            ):
                return True
        return False

    def _noise(self, x: Tensor, seed: int, old: list[Tensor], level: float) -> list[float]:
        """Largest change of each output when the teacher's parameters and input are moved by roundings."""
        generator = torch.Generator().manual_seed(seed)
        out = [0.0] * len(old)
        for _ in range(2):
            u = {n: _moved(v, level, generator) for n, v in self._teacher.tensors.items()}
            new = self._teacher.holding(u)(_moved(x, level, generator), seed)
            gaps = [Gap.between(a, b) for a, b in zip(old, new, strict=True)]
            out = [max(a, gap.change) for a, gap in zip(out, gaps, strict=True)]
        return out

    def _lifted(self, x: Tensor) -> Tensor:
        """ψ(x), the teacher's inputs at their places."""
        try:
            z = self._lift(x)
        except REFUSALS:
            z = self._lift(x.to(self._map.traced[1]))  # type: ignore[index]
        z = self._student.placed(z)
        if not z.is_floating_point():
            return z
        pair = self._state.pair(self._state.teacher.inputs[0], self._state.student.inputs[0])
        index = np.ix_(*(places(a.term) for a in pair.axes))
        out = z.clone()
        out[index] = x.to(z)
        return out

    def _mapped(self, outputs: Sequence[Tensor]) -> list[Tensor | None]:
        """The student's outputs on the teacher's coordinates; None where nothing says which these are."""
        pairs = [
            self._state.pairs.get((t.id, s.id))
            for t, s in zip(self._state.teacher.outputs, self._state.student.outputs, strict=False)
        ]
        return [
            None if pair is None else on_teacher(y, pair)
            for y, pair in zip(outputs, pairs, strict=False)
        ]


def _unhook(part: nn.Module) -> None:
    """Leave out the hooks of the module's owner, not those by which PyTorch computes weights."""
    for name, hooks in vars(part).items():
        if name.endswith("_hooks") and isinstance(hooks, dict):
            for key, hook in list(hooks.items()):
                if not type(hook).__module__.startswith("torch.nn.utils"):
                    del hooks[key]


def _copy(x: Tensor, double: bool) -> Tensor:
    dtype = (
        torch.float64 if x.is_floating_point() else torch.complex128 if x.is_complex() else x.dtype
    )
    return x.detach().to("cpu", dtype, copy=True) if double else x.detach().clone()


def _stray(grown: Params, large: Params) -> str | None:
    """The first tensor that is not what it is in float64, rounded."""
    for name, value in grown.items():
        if value.is_floating_point():
            gap = Gap.between(large[name], value)
            if gap.change > ROUNDINGS * torch.finfo(value.dtype).eps * gap.size:
                return name
    return None


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (a forward pass may draw from the global generator)
    torch.manual_seed(seed)


@contextmanager
def _as_found(device: torch.device) -> Iterator[None]:
    """The global generators are put back after."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _moved(x: Tensor, relative: float, generator: torch.Generator, absolute: float = 0.0) -> Tensor:
    """Every coordinate moved at random; whole numbers are left."""
    if not x.is_floating_point():
        return x
    a, b = torch.randn(2, *x.shape, generator=generator, dtype=torch.float64, device="cpu").to(x)
    return x * (1 + relative * a) + absolute * b


def _coarsest(run: Trace, kept: dict[int, Tensor]) -> float:
    """Rounding of the coarsest dtype that data takes."""
    held = [kept[v.id] for node in run.nodes for v in node.outputs]
    return max((torch.finfo(x.dtype).eps for x in held if x.is_floating_point()), default=0.0)


def _varies(outputs: Sequence[Sequence[Tensor]]) -> bool:
    """Whether some output of a batch, or of several batches, is finite and not the same for all inputs."""
    for column in zip(*outputs, strict=False):
        first = column[0]
        rows = [y[i : i + 1] for y in column for i in range(len(y))] if first.ndim else list(column)
        if len(rows) == 1:  # nothing to compare it with
            rows = [torch.zeros_like(rows[0]), *rows]
        if any(
            bool((a.isfinite() & (a != rows[0])).any()) for a in rows if a.shape == rows[0].shape
        ):
            return True
    return False


def _evaluating(lift: Lift, like: _Model) -> Lift:
    return copied(lift).eval().to(like.device, like.dtype) if isinstance(lift, nn.Module) else lift
