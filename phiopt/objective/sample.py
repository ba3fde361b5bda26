"""What one evaluation of the objective is an average over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple, overload

import numpy as np
import torch
from torch import Generator

from phiopt._inputs import Inputs, Targets
from phiopt._transforms import outside_transforms
from phiopt._types import Params
from phiopt.data import Batch, Data
from phiopt.objective.passes import spans
from phiopt.objective.term import Draws, Term


class Sample(NamedTuple):
    """A batch and the terms' random numbers on it.

    Args:
        inputs: ``(batch, ...)``, or several such tensors; None without data.
        targets: ``(batch, ...)``, or several such tensors; None without data.
        draws: Random numbers by the name of the term, for the terms that can be evaluated on the sample. The
            sample of a stochastic step lacks terms that come only once in several steps.
        step: Whether the sample is for a step of a stochastic solver, where only the expectation of the
            gradient counts. Otherwise value and gradient are those of one function of w.
        rest: The other half of a step's batch, with the draws of the terms that are evaluated there; None where
            the batch is not halved.
    """

    inputs: Inputs | None = None
    targets: Targets | None = None
    draws: Mapping[str, Draws] = {}
    step: bool = False
    rest: Sample | None = None

    @property
    def halves(self) -> tuple[Sample, ...]:
        """The sample without its rest, and the rest; or the sample alone."""
        return (self,) if self.rest is None else (self._replace(rest=None), self.rest)


class Stream(IntEnum):
    """Purposes of random draws. Draws of different streams are independent.

    STEP is for the fresh draw of each step of a stochastic solver. On these draws alone a term may be estimated
    in the cheapest way whose gradient has the right expectation, or be left out of most steps. TRAIN is for draws
    that are kept and minimised over.
    """

    TRAIN = 0
    HELD_OUT = 1
    FRESH = 2
    REFERENCE = 3
    STEP = 4


class Samples(Sequence[Sample]):
    """Samples that do not keep random numbers as large as the parameters. These are drawn again at each use.

    Args:
        makers: A function for each sample. It gives the same sample at every call.
    """

    def __init__(self, makers: Sequence[Callable[[], Sample]]) -> None:
        self._makers = list(makers)

    def __len__(self) -> int:
        return len(self._makers)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Samples: ...
    def __getitem__(self, index: int | slice) -> Sample | Samples:
        if isinstance(index, slice):
            return Samples(self._makers[index])
        return self._makers[index]()

    def __add__(self, others: Samples) -> Samples:
        return Samples([*self._makers, *others._makers])


def maker(
    terms: Sequence[Term],
    data: Data | None,
    params: Params,
    size: int | None,
    key: tuple[int, Stream, int],
    wanted: Collection[str],
    *,
    keep: bool,
    halved: Callable[[int], bool] | None = None,
) -> Callable[[], Sample]:
    """A function that makes one sample: a batch of ``size`` examples (None: all) and the random numbers of the
    terms ``wanted``. Without data only terms over the parameters have a part in the sample.

    The batch is read now.

    Args:
        terms: They draw in turn, wanted or not, so that the draws of a term do not depend on those that are wanted.
        data: D1.
        params: The parameters, for their shapes.
        size: Examples.
        key: The seed, the stream and the number of the draw.
        wanted: Names of terms.
        keep: True: all random numbers are drawn now. False: those that are as large as the parameters are drawn at
            each call.
        halved: Whether, of a batch of this length, the terms with inputs of their own get one half, and the others
            the other half; None: never.
    """
    step = key[1] is Stream.STEP
    if data is None:
        draws = {t.name: () for t in terms if t.over == "parameters" and t.name in wanted}
        return lambda: Sample(draws=draws, step=step)
    device = next(iter(params.values())).device
    entropy = np.random.SeedSequence(key).generate_state(1, np.uint64)
    generator = Generator(device).manual_seed(int(entropy[0]))
    small, states = {}, {}
    with outside_transforms():  # torch.vmap has rules of its own for random numbers
        batches = [data.batch(size, generator)]
        if halved is not None and halved(len(batches[0][0])):
            batches = _halves(*batches[0], generator)
        batch_of = {term.name: batches[-1 if term.own_inputs else 0] for term in terms}
        for term in terms:
            if term.large_draws and not keep:
                states[term.name] = generator.get_state()
                if term is terms[-1]:
                    continue  # no other draws follow
            numbers = term.draw(params, batch_of[term.name][0], generator, step)
            if term.name not in states:
                small[term.name] = numbers

    def draws_of(term: Term) -> Draws:
        if term.name in small:
            return small[term.name]
        again = Generator(device)
        again.set_state(states[term.name])
        return term.draw(params, batch_of[term.name][0], again, step)

    used = [term for term in terms if term.name in wanted]

    def make() -> Sample:
        with outside_transforms():
            draws = {term.name: draws_of(term) for term in used}
        samples = []
        for batch in batches:
            here = {name: numbers for name, numbers in draws.items() if batch_of[name] is batch}
            samples.append(Sample(*batch, here, step))
        return joined(samples)

    return make


def _halves(inputs: Inputs, targets: Targets, generator: Generator) -> list[Batch]:
    """Two random halves of a batch."""
    order = torch.randperm(len(inputs), generator=generator, device=generator.device)
    return [(inputs[half], targets[half]) for half in order.chunk(2)]


def joined(halves: Sequence[Sample]) -> Sample:
    """The sample of these `Sample.halves`."""
    return halves[0]._replace(rest=halves[1]) if halves[1:] else halves[0]


def parts(
    sample: Sample, terms: Sequence[Term], size: int | None
) -> list[tuple[tuple[int, int], Sample, float]]:
    """The sample in parts of ``size`` examples. For each part: its first and last position, itself, and its share
    of the whole.
    """
    if sample.inputs is None or sample.targets is None:
        return [((0, 0), sample, 1.0)]
    pieces = []
    drawn_for = [term for term in terms if term.name in sample.draws]
    for a, b in spans(len(sample.inputs), size):
        draws = {term.name: term.part(sample.draws[term.name], a, b) for term in drawn_for}
        part = Sample(sample.inputs[a:b], sample.targets[a:b], draws, sample.step)
        pieces.append(((a, b), part, (b - a) / len(sample.inputs)))
    return pieces
