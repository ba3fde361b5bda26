"""L(w): the weighted sum of the four terms, whose argmin is φ(u) (paper, section 4)."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from math import inf
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from phiopt._checks import count
from phiopt._transforms import outside_transforms
from phiopt._types import Loss, Model, Params
from phiopt.data import Data
from phiopt.derivatives import linearise
from phiopt.objective.curvature import Curvature, Frobenius, Product
from phiopt.objective.importance import chosen, influence
from phiopt.objective.lambdas import Lambdas
from phiopt.objective.model import LIFT
from phiopt.objective.neighbourhood import Draw, Neighbourhood
from phiopt.objective.noise import noise
from phiopt.objective.passes import (
    InParts,
    Pass,
    added,
    chunks,
    gradient_of,
    gradient_of_sum,
    hvp_of,
    spans,
)
from phiopt.objective.proximity import proximity
from phiopt.objective.task import Task


class Sample(NamedTuple):
    """What one evaluation of the objective is an average over; all None without data.

    ``probes`` are None too in a step that leaves the curvature out. ``repeat`` is None where value
    and gradient are those of one function of w. In a step of a stochastic solver, of which only the
    gradient's expectation counts, it is how many times the curvature counts, if it does, and
    ``offsets`` ``(2,)`` are the random numbers by which its two parts of the batch are chosen.
    """

    inputs: Tensor | None = None
    targets: Tensor | None = None
    noise: Draw | None = None
    probes: Params | None = None
    repeat: int | None = None
    offsets: Tensor | None = None


class Stream(IntEnum):
    """Purposes of random draws; those of different streams are independent.

    STEP is for a fresh draw to each step of a stochastic solver: there, and there alone, the
    curvature may be estimated in the cheapest way whose gradient has the right expectation, and
    only now and then. TRAIN is for draws that are kept and minimised over.
    """

    TRAIN = 0
    HELD_OUT = 1
    FRESH = 2
    REFERENCE = 3
    STEP = 4


@dataclass(frozen=True, eq=False)
class Objective:
    """L, the weighted sum of four terms whose argmin is φ(u).

        L(w) = λ1 L_f(w, D1*) + λ2 L_2(w, u) + λ3 L_3^δ(w, D1) + λ4 L_4(∂²L_f/∂w²)
        (paper, section 4)

    Every method is a pure function of its arguments and of these fields, made of differentiable
    operations: it can go through ``torch.func`` in the parameters and, by ``dataclasses.replace``,
    in ``lambdas``, ``teacher``, ``psi`` or the neighbourhood's ``delta``.

    Args:
        model: f(ψ(x), w) as a function ``(params, inputs)``; see `pure_model`.
        teacher: u, by the teacher's names.
        extract: w ↦ w[u], by the teacher's names.
        loss: ``l(outputs, targets)`` to per-example losses; see `student_loss`.
        lambdas: The weights.
        data: D1, or None: then only L_2 can be computed.
        neighbourhood: U_δ, or None: then L_3 is not computed.
        curvature: The estimator of L_4, or None: then L_4 is not computed.
        micro_batch: Examples that go through the model at once, in all but `value`, to bound the
            memory of activations; the result is the same to rounding. None: all of the sample.
        divisors: What each term is divided by before it is weighted; 1 where not named. See
            `relative`.
        psi: ψ's own parameters by name, to differentiate in; empty (default): those that the model
            holds.
    """

    model: Model
    teacher: Params
    extract: Callable[[Params], Params]
    loss: Loss
    lambdas: Lambdas
    data: Data | None = None
    neighbourhood: Neighbourhood | None = None
    curvature: Curvature | None = field(default_factory=Frobenius)
    divisors: Mapping[str, float] = field(default_factory=dict)
    micro_batch: int | None = None
    psi: Params = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.micro_batch is not None:
            count("micro_batch", self.micro_batch)

    @property
    def every(self) -> int:
        """Steps of a stochastic solver to one that has the curvature."""
        return 1 if self.curvature is None else self.curvature.every

    def sample(
        self, params: Params, size: int | None, seed: int, stream: Stream, step: int
    ) -> Sample:
        """The draw number ``step`` of a stream: ``size`` examples of D1 (None: all), their noise,
        and probes.

        A function of its arguments alone, except that a ``DataLoader`` gives its next batch.
        """
        with outside_transforms():  # torch.vmap has rules of its own for random numbers
            return self._sample(params, size, seed, stream, step)

    def _sample(
        self, params: Params, size: int | None, seed: int, stream: Stream, step: int
    ) -> Sample:
        if self.data is None:
            return Sample()
        device = next(iter(params.values())).device
        entropy = np.random.SeedSequence([seed, stream, step]).generate_state(1, np.uint64)
        generator = Generator(device).manual_seed(int(entropy[0]))
        inputs, targets = self.data.batch(size, generator)
        noise = None if self.neighbourhood is None else self.neighbourhood.draw(inputs, generator)
        if self.curvature is None:
            return Sample(inputs, targets, noise)
        every = self.curvature.every
        if stream is Stream.STEP and step % every:
            return Sample(inputs, targets, noise, repeat=every)
        probes = self.curvature.draw(params, generator)
        if stream is not Stream.STEP:
            return Sample(inputs, targets, noise, probes)
        offsets = None
        if self.curvature.part(len(inputs)):
            like = next(iter(params.values()))
            offsets = torch.rand(2, generator=generator, device=device, dtype=like.dtype)
        return Sample(inputs, targets, noise, probes, every, offsets)

    def terms(
        self, params: Params, sample: Sample, names: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """The raw, unweighted terms of these ``names``; None is all that the sample allows."""
        possible = {
            "task": sample.inputs is not None,
            "proximity": True,
            "noise": sample.noise is not None,
            "curvature": sample.probes is not None,
        }
        wanted = [n for n, given in possible.items() if given and (names is None or n in names)]
        return self._terms_in_parts(params, sample, wanted)

    def value(self, params: Params, sample: Sample) -> Tensor:
        """L(w) on the sample."""
        return self._weighted(params, sample)[0]

    def value_and_grad(
        self, params: Params, sample: Sample
    ) -> tuple[Tensor, dict[str, Tensor], Params]:
        """L(w), its raw terms (those with weight) and ∇L(w), on the sample.

        One pass: L_f's graph serves the Hessian-vector product too, and all terms share the final
        backward. Several passes, whose results are summed, if there is a ``micro_batch``, or if in a
        stochastic step the curvature comes from two parts of the batch.
        """
        counted = self._counted(sample)
        cheaper = "curvature" in counted and sample.offsets is not None
        if self.micro_batch is None and not cheaper:
            return gradient_of(lambda w: self._weighted(w, sample), params)
        terms, gradient = gradient_of_sum(self._passes(params, sample), params)
        if "curvature" in counted:
            tasks = self._halves(params, sample, terms.get("influence"))
            curved = self._in_parts(params, sample, tasks)
            passes = curved.passes(self._weight("curvature", sample))
            more, rest = gradient_of_sum(passes, params)
            terms, gradient = terms | more, added(gradient, rest)
        terms = self._in_order({n: t for n, t in terms.items() if n != "influence"})
        return self._sum(terms, sample), terms, gradient

    def hessian(self, params: Params, sample: Sample) -> Product:
        """v ↦ ∇²L(w) v on the sample, where that is no step's: from one graph, kept between products,
        or with a ``micro_batch`` from graphs of its size, made anew for each.
        """
        if self.micro_batch is None or sample.inputs is None:
            return linearise(lambda w: self.value(w, sample), params).hvp

        def product(vector: Params) -> Params:
            total: Params = {}
            for one in self._passes(params, sample):
                total = added(total, hvp_of(one, params, vector))
            if "curvature" not in self._counted(sample):
                return total
            curved = self._in_parts(params, sample)
            return added(total, curved.hvp(self._weight("curvature", sample), vector))

        return product

    def pieces(self, sample: Sample) -> list[tuple[Sample, float]]:
        """Samples of at most ``micro_batch`` examples and their shares: L is Σ share · L(piece).

        Where the curvature counts the sample is its only piece: ‖H v‖² is no sum over examples.
        """
        if self.micro_batch is None or "curvature" in self._counted(sample):
            return [(sample, 1.0)]
        parts = _parts(sample._replace(offsets=None), self.micro_batch)
        return [(part._replace(repeat=sample.repeat), share) for _, part, share in parts]

    def weigh(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Σ λ_i L_i / divisor_i over the terms that have weight."""
        return torch.stack([self._weight(n) * terms[n] for n in self.lambdas.active]).sum()

    def relative(self, start: Params, samples: list[Sample]) -> "Objective":
        """This objective in dimensionless terms: L_2 / ‖u‖² and L_4 / L_4(start); L_f and L_3 are
        mean losses already.

        Raw, the terms differ by powers of ten and λ means little. L_4(start) is the mean over
        ``samples``. The divisors are constants: a derivative in u or λ does not pass through them.
        One that is not positive and finite is left at 1.
        """
        divisors = {"proximity": self._square_norm_of_carried(start)}
        if "curvature" in self.lambdas.active:
            values = [self.terms(start, sample, ["curvature"])["curvature"] for sample in samples]
            known = torch.stack(values)
            mean = float(known.mean())
            # A user's estimator may be negative in the mean: its size, then.
            divisors["curvature"] = mean if mean > 0 else float(known.abs().mean())
        return replace(self, divisors={n: d for n, d in divisors.items() if 0 < d < inf})

    def _square_norm_of_carried(self, params: Params) -> float:
        zero = {name: torch.zeros_like(value) for name, value in params.items()}
        return float(proximity(zero, self.teacher, self.extract).detach())

    def _counted(self, sample: Sample) -> list[str]:
        """The terms that have weight on this sample."""
        skipped = sample.repeat is not None and sample.probes is None
        return [name for name in self.lambdas.active if not (skipped and name == "curvature")]

    def _weight(self, name: str, sample: Sample | None = None) -> Tensor | float:
        """λ_i / divisor_i, as many times as the term counts on this sample."""
        repeat = (sample.repeat if sample and name == "curvature" else None) or 1
        return getattr(self.lambdas, name) * repeat / self.divisors.get(name, 1.0)

    def _sum(self, terms: Mapping[str, Tensor], sample: Sample) -> Tensor:
        names = self._counted(sample)
        return torch.stack([self._weight(name, sample) * terms[name] for name in names]).sum()

    def _weighted(self, params: Params, sample: Sample) -> tuple[Tensor, dict[str, Tensor]]:
        terms = self._terms(params, sample, self._counted(sample))
        return self._sum(terms, sample), terms

    def _outputs(self, params: Params, inputs: Tensor) -> Tensor:
        return self.model({LIFT + name: p for name, p in self.psi.items()} | params, inputs)

    @property
    def _curvature(self) -> Curvature:
        assert self.curvature is not None, "this term needs an estimator"
        return self.curvature

    def _task(self, sample: Sample) -> Task:
        assert sample.inputs is not None, "this term needs data"
        assert sample.targets is not None
        return Task(self._outputs, self.loss, sample.inputs, sample.targets)

    def _in_order(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = [*(name for name, _ in self.lambdas.items()), "influence"]
        return {name: terms[name] for name in names if name in terms}

    def _passes(self, params: Params, sample: Sample) -> Iterator[Pass]:
        """Shares of the weighted sum of all terms but the curvature, of each part of the batch.

        Where the curvature is to choose examples by their ``influence``, the pass of L_f has it as
        one more term: a vector over the batch, zero outside of its part.
        """
        names = [name for name in self._counted(sample) if name != "curvature"]
        for (a, b), part, share in _parts(sample, self.micro_batch):
            # Each term is a mean over the batch but the proximity, which is counted once.
            wanted = [name for name in names if a == 0 or name != "proximity"]
            around = (a, 0 if sample.inputs is None else len(sample.inputs) - b)

            def one(
                w: Params,
                part: Sample = part,
                share: float = share,
                wanted: list[str] = wanted,
                around: tuple[int, int] = around,
            ) -> tuple[Tensor, dict[str, Tensor]]:
                terms = {
                    n: t if n == "proximity" else share * t
                    for n, t in self._terms(w, part, wanted).items()
                }
                total = torch.stack([self._weight(n) * terms[n] for n in wanted]).sum()
                if "influence" in terms:
                    terms["influence"] = pad(terms["influence"], around)
                return total, terms

            if wanted:
                yield one

    def _in_parts(
        self, params: Params, sample: Sample, tasks: tuple[Task, Task] | None = None
    ) -> InParts:
        """The curvature, of A and B, or of the whole batch."""
        assert sample.probes is not None
        if tasks is None:
            task = self._task(sample)
            tasks = task, task
        return InParts.aimed(self._curvature, tasks, params, sample.probes, self.micro_batch)

    def _terms_in_parts(
        self, params: Params, sample: Sample, names: list[str]
    ) -> dict[str, Tensor]:
        if self.micro_batch is None or sample.inputs is None:
            return self._terms(params, sample, names)
        total: dict[str, Tensor] = {}
        for (a, _), part, share in _parts(sample._replace(offsets=None), self.micro_batch):
            wanted = [n for n in names if n != "curvature" and (a == 0 or n != "proximity")]
            for name, term in self._terms(params, part, wanted).items():
                total = added(total, {name: term if name == "proximity" else share * term})
        if "curvature" in names:
            total["curvature"] = self._in_parts(params, sample).value()
        return self._in_order(total)

    def _halves(self, params: Params, sample: Sample, scores: Tensor | None) -> tuple[Task, Task]:
        """A and B; ``scores`` is the influence of each example, None if no pass had it."""
        task = self._task(sample)
        size = self._curvature.part(len(task))
        if sample.offsets is None or size is None:
            return task, task
        if scores is None:
            pieces = chunks(task, self.micro_batch)
            found = [share * influence(part, part.outputs(params)) for part, share in pieces]
            scores = torch.cat(found)
        first, second = sample.offsets.unbind()
        return chosen(task, scores, size, first), chosen(task, scores, size, second)

    def _terms(self, params: Params, sample: Sample, names: list[str]) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if "proximity" in names:
            terms["proximity"] = proximity(params, self.teacher, self.extract)
        if set(names) <= {"proximity"}:
            return terms
        task = self._task(sample)
        if "curvature" in names:
            assert sample.probes is not None
            terms["task"], terms["curvature"] = self._curvature(task, params, sample.probes)
        elif "task" in names:
            outputs = task.outputs(params)
            terms["task"] = task.of_outputs(outputs)
            if sample.offsets is not None and "curvature" in self.lambdas.active:
                terms["influence"] = influence(task, outputs)
        if "noise" in names:
            assert self.neighbourhood is not None
            assert sample.noise is not None
            noisy = self.neighbourhood.perturb(task.inputs, sample.noise)
            terms["noise"] = noise(self._outputs, self.loss, params, noisy, task.targets)
        return self._in_order(terms)


def _parts(sample: Sample, size: int | None) -> list[tuple[tuple[int, int], Sample, float]]:
    """The sample in parts of ``size`` examples: where they lie, they themselves, and each one's
    share of the whole.
    """
    if sample.inputs is None or sample.targets is None:
        return [((0, 0), sample, 1.0)]
    parts = []
    for a, b in spans(len(sample.inputs), size):
        noise = None if sample.noise is None else tuple(draw[:, a:b] for draw in sample.noise)
        part = Sample(sample.inputs[a:b], sample.targets[a:b], noise, offsets=sample.offsets)
        parts.append(((a, b), part, (b - a) / len(sample.inputs)))
    return parts
