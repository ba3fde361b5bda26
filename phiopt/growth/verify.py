"""Verify on numbers that a function-preserving fill keeps the function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from phiopt._inputs import Inputs, main_of, with_main
from phiopt._modules import copied, state_of
from phiopt._randomness import preserved_randomness
from phiopt._types import Params
from phiopt.growth.agreement import ROUNDINGS, Agreement, moved
from phiopt.growth.departure import Difference, Gap
from phiopt.growth.errors import AlignmentError, Side
from phiopt.growth.forward import Forward
from phiopt.growth.hidden import hiding
from phiopt.growth.map import GrowthMap
from phiopt.growth.probes import probes

CHEAP = 2**26
"""Number of coordinates of both models together up to which they are compared in float64."""

Make = Callable[[Params, Params], Params]
"""Makes the grown student's tensors from the teacher's, and those of the student as constructed."""
_TELLS_NOTHING = (
    "the teacher's outputs are zero, not finite or the same at every input tried; pass inputs= on which they "
    "vary, or compare the outputs on data"
)


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
    inputs: Inputs | None = None,
    seed: int = 0,
) -> str | None:
    """Compare the student at ψ(x) with its teacher at x, both in evaluation mode.

    Each model runs once on two examples of the plainest inputs, and once on small and large inputs together, or once
    for each size if examples influence each other. This is done in float64, where rounding hides little. Growth that
    rounds is done again in float64. If a parameter of the teacher is zero and hides what it multiplies, both models run
    once more with another value of it.

    Only a difference costs more. Rounding is measured: it is the change of the teacher's outputs when every parameter
    moves by one rounding of the coarsest dtype in either forward pass. The values of all operations are compared to
    name the first that differs. Large models are compared in their own dtype and on their own device, and so are models
    that run nowhere else.

    Args:
        teacher: The teacher.
        student: The student as constructed.
        map: The map between them.
        make: Makes the grown student's tensors. It is called with copies in float64 too.
        grown: The tensors that it made of the models as they are.
        fill: The name of the fill.
        inputs: A batch of the teacher's inputs. ``None``: random inputs.
        seed: Seed of the random numbers.

    Returns:
        Why nothing could be verified, or ``None``.

    Raises:
        AlignmentError: They differ. The message names the first operations that differ, with their modules.
    """
    if map.correspondence is None or map.traced is None:
        return "the map was loaded from a file"
    sizes = [x.numel() for model in (teacher, student) for x in state_of(model).values()]
    device = next(iter(state_of(teacher).values())).device
    reason: str | None = None
    for double in (True, False) if sum(sizes) <= CHEAP else (False,):
        models = tuple(Forward.of(m, double) for m in (teacher, student))
        batches = list(probes(map, inputs, seed))
        with preserved_randomness(map.lift, device, seed):
            verdict = _Check(map, models[0], models[1], make, batches, seed).run(grown, double)
        if isinstance(verdict, Exception):
            reason = f"the forward pass fails on an example: {verdict}; pass inputs="
            continue
        if isinstance(verdict, Difference | _Overflow):
            raise verdict.error(fill, teacher, student)
        return verdict
    return reason


@dataclass(frozen=True)
class _Overflow:
    """A tensor of the grown student whose dtype cannot hold its values."""

    name: str

    def error(self, fill: str, teacher: nn.Module, student: nn.Module) -> AlignmentError:
        return AlignmentError(
            f"{self.name} of the grown student differs from the same growth in float64 by more than rounding: its "
            f"dtype cannot hold the values that fill={fill!r} gives it",
            "Grow in a wider dtype, or take another fill",
            student=Side.of_tensor(self.name),
        )


Verdict = Difference | _Overflow | Exception | str | None
"""Where a difference starts, the error that refuses every example, why nothing could be verified, or ``None``."""


@dataclass(frozen=True)
class _Check:
    """A comparison in one precision: of the teacher, and the student with its tensors as constructed."""

    map: GrowthMap
    teacher: Forward
    student: Forward
    make: Make
    batches: Sequence[Inputs]
    seed: int

    def run(self, grown: Params, double: bool) -> Verdict:
        agreement = self._agreement(self.teacher, self.batches)
        student = self.student.holding(grown)
        # Growth that only copies values is the same in float64. Other growth is done again there.
        differing = agreement.differing(student) if not double or self._copies(grown) else None
        if double and differing != []:
            large = self.make(self.teacher.tensors, self.student.tensors)
            overflow = _overflow(grown, large)
            if overflow is not None:
                return overflow
            student = self.student.holding(large)
            differing = agreement.differing(student)
        for i in differing or ():
            verdict = agreement.judge(student, i)
            if verdict is not None:
                return verdict
        return self._unhidden() if agreement.varies() else self._otherwise(agreement.refused)

    def _copies(self, grown: Params) -> bool:
        """Whether the grown student has the teacher's values unchanged."""
        values = self.map.extract(grown)
        return all(
            torch.equal(x.to(self.teacher.tensors[n]), self.teacher.tensors[n])
            for n, x in values.items()
        )

    def _unhidden(self) -> Verdict:
        """Compare once more, with other values in parameters that are zero and hide what they multiply."""
        generator = torch.Generator().manual_seed(self.seed)
        state = self.map.correspondence
        assert state is not None
        names = hiding(state.teacher, self._placed())
        if not names:
            return None
        u = {n: moved(self.teacher.tensors[n], 0.0, generator, 0.1) for n in names}
        verdict, _ = self._of(self.teacher.tensors | u, self.batches[0])
        return verdict

    def _otherwise(self, refused: Exception | None) -> Verdict:
        """Compare on what may tell more than the batches: positive inputs below one, other weights in the teacher."""
        x = self.batches[0]
        generator = torch.Generator().manual_seed(self.seed)
        gentle, main = x, main_of(x)
        if main.is_floating_point():
            positive = torch.rand(main.shape, generator=generator, dtype=main.dtype, device="cpu")
            gentle = with_main(x, positive)
        own = self.teacher.tensors
        u = own | {n: moved(v, 0.3, generator, 0.1) for n, v in self._placed().items()}
        for tensors, batch in ((own, gentle), (u, x), (u, gentle)):
            verdict, agreement = self._of(tensors, batch)
            refused = refused or agreement.refused
            if verdict is not None or agreement.varies():
                return verdict
        return refused or _TELLS_NOTHING

    def _of(self, u: Params, batch: Inputs) -> tuple[Verdict, Agreement]:
        """Compare on one batch, with other weights in the teacher."""
        student = self.student.holding(self.make(u, self.student.tensors))
        agreement = self._agreement(self.teacher.holding(u), [batch])
        verdict = [agreement.judge(student, i) for i in agreement.differing(student)]
        return next(iter(verdict), None), agreement

    def _agreement(self, teacher: Forward, batches: Sequence[Inputs]) -> Agreement:
        lift = self.map.lift
        if isinstance(lift, nn.Module):
            lift = copied(lift).eval().to(teacher.device, teacher.dtype)
        return Agreement(self.map, teacher, self.student, lift, batches, self.seed)

    def _placed(self) -> Params:
        """The teacher's parameters that the map places."""
        names = dict(self.teacher.module.named_parameters())
        return {
            n: x for n, x in self.teacher.tensors.items() if n in names and n in self.map.placements
        }


def _overflow(grown: Params, large: Params) -> _Overflow | None:
    """The first tensor that differs from the rounded float64 tensor."""
    for name, value in grown.items():
        if value.is_floating_point():
            gap = Gap.between(large[name], value)
            if gap.change > ROUNDINGS * torch.finfo(value.dtype).eps * gap.size:
                return _Overflow(name)
    return None
