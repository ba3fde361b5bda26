"""What one evaluation of the objective is an average over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from torch import Generator

from phiopt._inputs import Inputs, Targets
from phiopt._types import Params
from phiopt.data import Data
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
    """

    inputs: Inputs | None = None
    targets: Targets | None = None
    draws: Mapping[str, Draws] = {}
    step: bool = False


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


def drawn(
    terms: Sequence[Term],
    data: Data | None,
    params: Params,
    size: int | None,
    key: tuple[int, Stream, int],
) -> Sample:
    """A batch of ``size`` examples (None: all) and the random numbers of these terms. Without data only terms over
    the parameters have a part in it. ``key`` is made of the seed, the stream and the number of the draw.
    """
    step = key[1] is Stream.STEP
    if data is None:
        return Sample(draws={t.name: () for t in terms if t.over == "parameters"}, step=step)
    device = next(iter(params.values())).device
    entropy = np.random.SeedSequence(key).generate_state(1, np.uint64)
    generator = Generator(device).manual_seed(int(entropy[0]))
    inputs, targets = data.batch(size, generator)
    draws = {term.name: term.draw(params, inputs, generator, step) for term in terms}
    return Sample(inputs, targets, draws, step)


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
