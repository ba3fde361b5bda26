"""L(w): the weighted sum of terms whose argmin is φ(u) (paper, section 4)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

import torch
from torch import Tensor
from torch.nn.functional import pad

from phiopt._checks import Scalar, count
from phiopt._transforms import outside_transforms
from phiopt._types import Loss, Model, Params
from phiopt.data import Data
from phiopt.derivatives import Product, linearise
from phiopt.objective.lambdas import Lambdas, weighed
from phiopt.objective.mean_loss import Task
from phiopt.objective.model import LIFT
from phiopt.objective.passes import added, gradient_of, gradient_of_sum, hvp_of
from phiopt.objective.sample import Sample, Stream, drawn, parts
from phiopt.objective.search import Search
from phiopt.objective.term import Evaluation, Pass, Term, Terms, Work, evaluated


@dataclass(frozen=True, eq=False)
class Objective:
    """L, the weighted sum of terms whose argmin is φ(u).

        L(w) = Σ λ_i L_i(w) / divisor_i

    The paper's four (section 4) are `TaskTerm`, `ProximityTerm`, `NoiseTerm` and `CurvatureTerm`.
    Every method is a pure function of its arguments and of these fields, made of differentiable
    operations: it can go through ``torch.func`` in the parameters and, by `with_tensors`, in whatever
    `tensors` names.

    Args:
        model: f(ψ(x), w) as a function ``(params, inputs)``; see `pure_model`.
        loss: ``l(outputs, targets)`` to per-example losses; see `student_loss`.
        terms: The terms, in the order of reports.
        lambdas: The weights of the paper's terms. One whose term is not among ``terms`` is not computed.
        extra: The weights of other terms, by name: numbers or 0-dimensional tensors, not negative.
        data: D1, or None: then only terms over the parameters can be computed.
        divisors: What each term is divided by before it is weighted; 1 where not named. See
            `relative`.
        micro_batch: Examples that go through the model at once, in all but `value`, to bound the
            memory of activations; the result is the same to rounding. None: all of the sample.
        psi: ψ's own parameters by name, to differentiate in; empty (default): those that the model
            holds.
    """

    model: Model
    loss: Loss
    terms: Sequence[Term]
    lambdas: Lambdas
    extra: Mapping[str, Scalar] = field(default_factory=dict)
    data: Data | None = None
    divisors: Mapping[str, float] = field(default_factory=dict)
    micro_batch: int | None = None
    psi: Params = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.micro_batch is not None:
            count("micro_batch", self.micro_batch)

    @property
    def names(self) -> list[str]:
        """Of the terms, in their order."""
        return [term.name for term in self.terms]

    @property
    def weights(self) -> dict[str, Scalar]:
        """λ of every term, by name, in the order of the terms."""
        every = {**dict(self.lambdas.items()), **self.extra}
        return {name: every[name] for name in self.names}

    @property
    def active(self) -> list[str]:
        """Names of the terms that count: all but those whose weight is the number 0."""
        return weighed(self.weights)

    @property
    def interval(self) -> int:
        """Steps of a stochastic solver to one that has all terms with weight."""
        active = self.active
        return max([1, *(term.interval for term in self.terms if term.name in active)])

    def term(self, name: str) -> Term | None:
        """The term of this name; None if there is none."""
        return next((term for term in self.terms if term.name == name), None)

    def with_term(self, term: Term) -> Objective:
        """With this term in place of the one of its name, or after the others."""
        if term.name not in self.names:
            return replace(self, terms=[*self.terms, term])
        return replace(self, terms=[term if t.name == term.name else t for t in self.terms])

    def without_term(self, name: str) -> Objective:
        """Without the term of this name, which has no weight."""
        return replace(self, terms=[term for term in self.terms if term.name != name])

    def reporting(self, to: Callable[[Search], None]) -> Objective:
        """With terms that call ``to`` after every search that they make."""
        return replace(self, terms=[term.reporting(to) for term in self.terms])

    def tensors(self) -> Params:
        """The tensors that a solution can be differentiated in: ``lambdas.task``, ``extra.NAME``,
        ``psi.NAME``, and those of the terms, such as ``teacher.NAME`` and ``neighbourhood.delta``.
        """
        every = {f"lambdas.{name}": weight for name, weight in self.lambdas.items()}
        every |= {f"extra.{name}": weight for name, weight in self.extra.items()}
        every |= {f"psi.{name}": value for name, value in self.psi.items()}
        for term in self.terms:
            every |= term.tensors()
        return {name: value for name, value in every.items() if isinstance(value, Tensor)}

    def with_tensors(self, values: Params) -> Objective:
        """With other values for some of `tensors`."""

        def under(part: str) -> Params:
            own = {n: v for n, v in values.items() if n.startswith(part)}
            return {n.removeprefix(part): v for n, v in own.items()}

        return replace(
            self,
            lambdas=replace(self.lambdas, **own) if (own := under("lambdas.")) else self.lambdas,
            extra={**self.extra, **under("extra.")},
            psi=self.psi | under("psi."),
            terms=[term.with_tensors(values) for term in self.terms],
        )

    def sample(
        self, params: Params, size: int | None, seed: int, stream: Stream, step: int
    ) -> Sample:
        """The draw number ``step`` of a stream: ``size`` examples of D1 (None: all) and the terms' random
        numbers.

        A function of its arguments alone, except that a ``DataLoader`` gives its next batch.
        """
        stochastic = stream is Stream.STEP
        # What a term draws does not depend on the weights of those before, so that only the last are left out.
        last = max(i for i, term in enumerate(self.terms) if term.name in self.active)
        terms = self.terms[: last + 1] if stochastic else self.terms
        terms = [t for t in terms if not stochastic or step % t.interval == 0]
        with outside_transforms():  # torch.vmap has rules of its own for random numbers
            return drawn(terms, self.data, params, size, (seed, stream, step))

    def evaluate(
        self, params: Params, sample: Sample, names: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """The raw, unweighted terms of these ``names``; None is all that the sample allows."""
        wanted = [t for t in self._on(sample) if names is None or t.name in names]
        if self.micro_batch is None or sample.inputs is None:
            return self._values(params, sample, wanted)[0]
        total: Terms = {}
        for (start, _), part, share in parts(sample, self.terms, self.micro_batch):
            here = [
                t for t in wanted if t.over == "examples" or (t.over == "parameters" and not start)
            ]
            for name, value in self._values(params, part, here)[0].items():
                total = added(total, {name: self._share(name, share) * value})
        for term in wanted:
            if term.over == "batch":
                draws = sample.draws[term.name]
                value = term.whole(self._task(sample), params, draws, self.micro_batch)
                total[term.name] = value
        return {name: total[name] for name in self.names if name in total}

    def value(self, params: Params, sample: Sample) -> Tensor:
        """L(w) on the sample."""
        return self._weighted(params, sample)[0]

    def value_and_grad(
        self, params: Params, sample: Sample
    ) -> tuple[Tensor, dict[str, Tensor], Params]:
        """L(w), its raw terms (those with weight) and ∇L(w), on the sample.

        One pass: what the terms share is computed once, and all share the final backward. Several, with
        sums for a result, if there is a ``micro_batch``, or if a term has an unbiased gradient for a
        stochastic step that costs less.
        """
        counted = self._counted(sample)
        apart = [term for term in counted if self._apart(term, sample)]
        if not apart:
            return gradient_of(lambda w: self._weighted(w, sample), params)
        scored = [term for term in apart if sample.step]
        terms, gradient = gradient_of_sum(self._passes(sample, scored), params)
        scores = {term.name: terms.pop(_scores(term), None) for term in apart}
        for term in apart:
            passes = term.passes(
                self._weight(term.name, sample),
                self._task(sample),
                params,
                sample.draws[term.name],
                self.micro_batch,
                scores[term.name],
            )
            more, rest = gradient_of_sum(passes, params)
            terms, gradient = terms | more, added(gradient, rest)
        terms = {name: terms[name] for name in self.names if name in terms}
        return self._sum(terms, sample), terms, gradient

    def hessian(self, params: Params, sample: Sample) -> Product:
        """v ↦ ∇²L(w) v on the sample, where that is no step's: from one graph, kept between products,
        or with a ``micro_batch`` from graphs of its size, made anew for each.
        """
        if self.micro_batch is None or sample.inputs is None:
            return linearise(lambda w: self.value(w, sample), params).hvp

        def product(vector: Params) -> Params:
            total: Params = {}
            for each_pass in self._passes(sample, []):
                total = added(total, hvp_of(each_pass, params, vector))
            for term in self._counted(sample):
                if self._apart(term, sample):
                    at = (self._task(sample), params, sample.draws[term.name], self.micro_batch)
                    total = added(total, term.hvp(self._weight(term.name, sample), *at, vector))
            return total

        return product

    def pieces(self, sample: Sample) -> list[tuple[Sample, float]]:
        """Samples of at most ``micro_batch`` examples and their shares: L is Σ share · L(piece).

        Where a term over the batch counts the sample is its only piece.
        """
        if self.micro_batch is None or any(t.over == "batch" for t in self._counted(sample)):
            return [(sample, 1.0)]
        return [(part, share) for _, part, share in parts(sample, self.terms, self.micro_batch)]

    def weigh(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Σ λ_i L_i / divisor_i over the terms that have weight."""
        return torch.stack([self._weight(n) * terms[n] for n in self.active]).sum()

    def relative(self, start: Params, samples: list[Sample]) -> Objective:
        """This objective in dimensionless terms: each divided by its `Term.unit` at the start.

        Raw, the terms differ by powers of ten and λ means little. Values at the start are taken on
        ``samples``. The divisors are constants: a derivative in u or λ does not pass through them.
        One that is not positive and finite is left at 1.
        """
        active, divisors = self.active, {}
        for term in self.terms:
            if term.over != "parameters" and term.name not in active:
                continue

            def values(name: str = term.name) -> Tensor:
                return torch.stack([self.evaluate(start, s, [name])[name] for s in samples])

            divisors[term.name] = term.unit(start, values)
        return replace(self, divisors={n: d for n, d in divisors.items() if 0 < d < inf and d != 1})

    def work(self, sample: Sample, names: Collection[str] | None = None) -> Work:
        """What an evaluation of these terms costs; None: of those with weight."""
        examples = 0 if sample.inputs is None else len(sample.inputs)
        wanted = self.active if names is None else names
        terms = [term for term in self._on(sample) if term.name in wanted]
        return Work.of(term.work(sample.draws[term.name], examples) for term in terms)

    def _on(self, sample: Sample) -> list[Term]:
        """The terms that the sample allows."""
        return [term for term in self.terms if term.name in sample.draws]

    def _counted(self, sample: Sample) -> list[Term]:
        """The terms that have weight on this sample."""
        active = self.active
        return [term for term in self._on(sample) if term.name in active]

    def _apart(self, term: Term, sample: Sample) -> bool:
        """Whether the term's gradient comes by passes of its own."""
        if term.over != "batch":
            return False
        return self.micro_batch is not None or term.cheaper(sample.draws[term.name])

    def _weight(self, name: str, sample: Sample | None = None) -> Tensor | float:
        """λ_i / divisor_i, as many times as the term counts on this sample."""
        term = self.term(name)
        times = term.interval if term is not None and sample is not None and sample.step else 1
        return self.weights[name] * times / self.divisors.get(name, 1.0)

    def _share(self, name: str, share: float) -> float:
        """What a part of the batch, a share of it, has of the term's value."""
        term = self.term(name)
        return 1.0 if term is None or term.over == "parameters" else share

    def _sum(self, terms: Mapping[str, Tensor], sample: Sample) -> Tensor:
        names = [term.name for term in self._counted(sample)]
        return torch.stack([self._weight(name, sample) * terms[name] for name in names]).sum()

    def _weighted(self, params: Params, sample: Sample) -> tuple[Tensor, Terms]:
        terms, _ = self._values(params, sample, self._counted(sample))
        return self._sum(terms, sample), terms

    def _outputs(self, params: Params, inputs: Tensor) -> Tensor:
        return self.model({LIFT + name: p for name, p in self.psi.items()} | params, inputs)

    def _task(self, sample: Sample) -> Task:
        assert sample.inputs is not None, "this term needs data"
        assert sample.targets is not None
        return Task(self._outputs, self.loss, sample.inputs, sample.targets)

    def _values(
        self, params: Params, sample: Sample, terms: Sequence[Term]
    ) -> tuple[Terms, Evaluation]:
        """The raw terms on one batch, and what they were computed with."""
        at = Evaluation(params, None if sample.inputs is None else self._task(sample))
        return evaluated(terms, at, sample.draws), at

    def _passes(self, sample: Sample, scored: Sequence[Term]) -> Iterator[Pass]:
        """Shares of the weighted sum of all terms without passes of their own, on each part of the batch.

        Where the outputs are at hand a pass has also the scores that the terms ``scored`` ask for: vectors
        over the batch, zero outside of the part.
        """
        plain = [term for term in self._counted(sample) if not self._apart(term, sample)]
        for (start, stop), part, share in parts(sample, self.terms, self.micro_batch):
            # Each term is a mean over the batch, but one of the parameters alone is counted once.
            wanted = [term for term in plain if start == 0 or term.over != "parameters"]
            around = (start, 0 if sample.inputs is None else len(sample.inputs) - stop)

            def one_pass(
                w: Params,
                part: Sample = part,
                share: float = share,
                wanted: list[Term] = wanted,
                around: tuple[int, int] = around,
            ) -> tuple[Tensor, Terms]:
                raw, at = self._values(w, part, wanted)
                terms = {name: self._share(name, share) * value for name, value in raw.items()}
                total = torch.stack([self._weight(n, sample) * t for n, t in terms.items()]).sum()
                for term in scored if at.has_outputs else ():
                    scores = term.scores(at, sample.draws[term.name])
                    if scores is not None:
                        terms[_scores(term)] = pad(share * scores, around)
                return total, terms

            if wanted:
                yield one_pass


def _scores(term: Term) -> str:
    """Under this name a pass gives the scores for a term."""
    return f"scores of {term.name}"
