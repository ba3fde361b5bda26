"""L(w): the weighted sum of terms whose argmin is φ(u) (paper, section 4)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import torch
from torch import Tensor
from torch.nn.functional import pad

from phiopt._inputs import Inputs
from phiopt._types import Params
from phiopt.derivatives import Product, linearise
from phiopt.objective.mean_loss import Task
from phiopt.objective.model import LIFT
from phiopt.objective.passes import added, gradient_of, gradient_of_sum, hvp_of, together
from phiopt.objective.sample import Sample, Samples, Stream, maker, parts
from phiopt.objective.term import Evaluation, Partition, Pass, Term, Terms, Work, evaluated
from phiopt.objective.weighted import WeightedTerms


@dataclass(frozen=True, eq=False)
class Objective(WeightedTerms):
    """L, the weighted sum of terms whose argmin is φ(u).

        L(w) = Σ λ_i L_i(w) / divisor_i

    The paper's four (section 4) are `TaskTerm`, `ProximityTerm`, `NoiseTerm` and `CurvatureTerm`.
    Every method is a pure function of its arguments and of the fields, made of differentiable operations.
    ``torch.func`` can differentiate it in the parameters and, by `with_tensors`, in whatever `tensors` names.

    See `WeightedTerms` for the fields.
    """

    def sample(
        self,
        params: Params,
        size: int | None,
        seed: int,
        stream: Stream,
        step: int,
        *,
        weighted: bool = False,
    ) -> Sample:
        """Draw number ``step`` of a stream: ``size`` examples of D1 (None: all) and the terms' random numbers.

        With ``weighted``, and on the stream of steps, terms without weight are left out. The result depends on the
        arguments alone, except that a ``DataLoader`` gives its next batch.
        """
        return self._maker(params, size, (seed, stream, step), weighted, keep=True)()

    def samples(
        self,
        params: Params,
        size: int | None,
        seed: int,
        stream: Stream,
        steps: Iterable[int],
        *,
        weighted: bool = False,
    ) -> Samples:
        """Draws of a stream by their numbers, as `sample` gives them. Their batches are read now. Random numbers as
        large as the parameters are drawn at each use.
        """
        keys = [(seed, stream, step) for step in steps]
        return Samples([self._maker(params, size, key, weighted, keep=False) for key in keys])

    def _maker(
        self,
        params: Params,
        size: int | None,
        key: tuple[int, Stream, int],
        weighted: bool,
        keep: bool,
    ) -> Callable[[], Sample]:
        stochastic = key[1] is Stream.STEP
        wanted, terms = self.names, list(self.terms)
        if stochastic or weighted:
            wanted = self.active
            last = max(i for i, term in enumerate(terms) if term.name in wanted)
            terms = terms[: last + 1]
        terms = [t for t in terms if not stochastic or key[2] % t.interval == 0]
        halved = self.halved if stochastic and size is not None else None
        return maker(terms, self.data, params, size, key, wanted, keep=keep, halved=halved)

    def evaluate(
        self, params: Params, sample: Sample, names: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """The raw, unweighted terms of these ``names``; None is all that the sample allows."""
        if sample.rest is not None:
            records = [self.evaluate(params, half, names) for half in sample.halves]
            return self._ordered({n: v for record in records for n, v in record.items()})
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
                total[term.name] = term.whole(self._partition(term, params, sample))
        return self._ordered(total)

    def value(self, params: Params, sample: Sample) -> Tensor:
        """L(w) on the sample."""
        return self._weighted(params, sample)[0]

    def value_and_grad(
        self, params: Params, sample: Sample
    ) -> tuple[Tensor, dict[str, Tensor], Params]:
        """L(w), the raw terms with weight, and ∇L(w), on the sample.

        As a rule there is one pass: what the terms share is computed once, and all share the final backward
        pass. There are several passes, whose results are added, with a ``micro_batch``, and where a term has a
        cheaper unbiased gradient for a stochastic step.
        """
        counted = self._counted(sample)
        apart = [term for term in counted if self._apart(term, sample)]
        if not apart and self.micro_batch is None:
            return gradient_of(lambda w: self._weighted(w, sample), params)
        scored = [term for term in apart if sample.step]
        terms, gradient = gradient_of_sum(self._passes(sample, scored), params)
        scores = {term.name: terms.pop(_scores(term), None) for term in apart}
        for term in apart:
            on, weight = self._partition(term, params, sample), self._weight(term.name, sample)
            passes = term.passes(weight, on, scores[term.name])
            more, rest = gradient_of_sum(passes, params)
            terms, gradient = terms | more, added(gradient, rest)
        terms = self._ordered(terms)
        return self._sum(terms, sample), terms, gradient

    def hessian(self, params: Params, sample: Sample) -> Product:
        """v ↦ ∇²L(w) v on the sample, which must not be that of a stochastic step.

        One graph serves all products. With a ``micro_batch`` smaller graphs are made anew for each product.
        """
        if self.micro_batch is None or sample.inputs is None:
            return linearise(lambda w: self.value(w, sample), params).hvp

        def product(vector: Params) -> Params:
            total: Params = {}
            for each_pass in self._passes(sample, []):
                total = added(total, hvp_of(each_pass, params, vector))
            for term in self._counted(sample):
                if self._apart(term, sample):
                    on = self._partition(term, params, sample)
                    total = added(total, term.hvp(self._weight(term.name, sample), on, vector))
            return total

        return product

    def pieces(self, sample: Sample) -> list[tuple[Sample, float]]:
        """Samples of at most ``micro_batch`` examples, and their shares: L is Σ share · L(piece).

        The sample is its own only piece where a term over the batch has weight.
        """
        if self.micro_batch is None or any(t.over == "batch" for t in self._counted(sample)):
            return [(sample, 1.0)]
        return [(part, share) for _, part, share in parts(sample, self.terms, self.micro_batch)]

    def relative(self, start: Params, samples: Sequence[Sample]) -> Objective:
        """This objective in dimensionless terms: each is divided by its `Term.unit` at the start.

        Raw terms differ by powers of ten, so that λ means little. Values at the start are taken on ``samples``.
        The divisors are constants: a derivative in u or λ does not pass through them. A divisor that is not
        positive and finite is left at 1.
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
        if sample.rest is not None:
            works = [self.work(half, names) for half in sample.halves]
            forward = sum(work.task + work.forward for work in works)
            return Work(forward=forward / 2, hvp=sum(work.hvp for work in works) / 2)
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

    def _ordered(self, terms: Mapping[str, Tensor]) -> Terms:
        return {name: terms[name] for name in self.names if name in terms}

    def _sum(self, terms: Mapping[str, Tensor], sample: Sample) -> Tensor:
        """The weighted sum of these terms, which all have weight."""
        return torch.stack(
            [self._weight(name, sample) * value for name, value in terms.items()]
        ).sum()

    def _weighted(self, params: Params, sample: Sample) -> tuple[Tensor, Terms]:
        terms: Terms = {}
        for half in sample.halves:
            terms |= self._values(params, half, self._counted(half))[0]
        terms = self._ordered(terms)
        return self._sum(terms, sample), terms

    def _outputs(self, params: Params, inputs: Inputs) -> Tensor:
        return self.model({LIFT + name: p for name, p in self.psi.items()} | params, inputs)

    def _task(self, sample: Sample) -> Task:
        assert sample.inputs is not None, "this term needs data"
        assert sample.targets is not None
        return Task(self._outputs, self.loss, sample.inputs, sample.targets)

    def _partition(self, term: Term, params: Params, sample: Sample) -> Partition:
        return Partition(self._task(sample), params, sample.draws[term.name], self.micro_batch)

    def _values(
        self, params: Params, sample: Sample, terms: Sequence[Term]
    ) -> tuple[Terms, Evaluation]:
        """The raw terms on one batch, and what they were computed with."""
        at = Evaluation(params, None if sample.inputs is None else self._task(sample))
        return evaluated(terms, at, sample.draws), at

    def _passes(self, sample: Sample, scored: Sequence[Term]) -> list[Pass]:
        """The weighted sum of all terms that have no passes of their own, in one pass, or with a ``micro_batch`` in a
        pass for each part of the batch.

        Where a pass computes the outputs it gives the scores too that the terms ``scored`` ask for. Scores are
        vectors over the batch, zero outside of the part.
        """
        passes: list[Pass] = []
        for number, half in enumerate(sample.halves):
            for span, part, share in parts(half, self.terms, self.micro_batch):
                plain = [term for term in self._counted(part) if not self._apart(term, part)]
                # Each term is a mean over the batch, but one of the parameters alone is counted once.
                wanted = [term for term in plain if span[0] == 0 or term.over != "parameters"]
                if wanted:
                    asked = scored if number == 0 else ()
                    passes.append(self._pass(half, span, part, share, wanted, asked))
        return [together(passes)] if passes and self.micro_batch is None else passes

    def _pass(
        self,
        sample: Sample,
        span: tuple[int, int],
        part: Sample,
        share: float,
        wanted: Sequence[Term],
        scored: Sequence[Term],
    ) -> Pass:
        """The terms ``wanted`` and the scores on one part of a sample."""
        around = (span[0], 0 if sample.inputs is None else len(sample.inputs) - span[1])

        def one_pass(w: Params) -> tuple[Tensor, Terms]:
            raw, at = self._values(w, part, wanted)
            terms = {name: self._share(name, share) * value for name, value in raw.items()}
            total = self._sum(terms, sample)
            for term in scored if at.has_outputs else ():
                scores = term.scores(at, sample.draws[term.name])
                if scores is not None:
                    terms[_scores(term)] = pad(share * scores, around)
            return total, terms

        return one_pass


def _scores(term: Term) -> str:
    """The name under which a pass gives the scores for a term."""
    return f"scores of {term.name}"
