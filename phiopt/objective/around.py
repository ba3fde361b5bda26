"""Neighbours x' of a batch of one input or several: in which tensor they differ from x."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Generator, Tensor

from phiopt._inputs import Inputs, main_of
from phiopt.objective.neighbourhood import Cautious, Draw, Neighbourhood


@runtime_checkable
class OfTokens(Protocol):
    """A neighbourhood of token numbers, which are whole, in place of floating inputs."""

    @property
    def of_tokens(self) -> bool: ...


def no_neighbours(neighbourhood: Neighbourhood, inputs: Inputs) -> str:
    """Why these inputs have no neighbours x'; empty if they have."""
    if not _of_tokens(neighbourhood):
        advice = "neighbours x' need floating inputs (those of tokens are phiopt.Replacement's)"
        return "" if inputs.is_floating_point() else advice
    main = main_of(inputs)
    whole = not (main.is_floating_point() or main.is_complex())
    return "" if whole else f"{type(neighbourhood).__name__} needs token numbers, which are whole"


def caution(neighbourhood: Neighbourhood, inputs: Inputs) -> str:
    """What is odd about the neighbourhood on these inputs, for a warning; empty if nothing is."""
    if no_neighbours(neighbourhood, inputs) or not isinstance(neighbourhood, Cautious):
        return ""
    return neighbourhood.caution(_changed(neighbourhood, inputs))


def drawn_around(neighbourhood: Neighbourhood, inputs: Inputs, generator: Generator) -> Draw:
    """The random numbers of a batch of neighbours."""
    return neighbourhood.draw(_changed(neighbourhood, inputs), generator)


def perturbed(neighbourhood: Neighbourhood, inputs: Inputs, draw: Draw) -> Inputs:
    """Samples x' ``(samples, batch, ...)`` of the inputs. Of several inputs one differs (`Several.around`; the main one
    under a neighbourhood of tokens), and the others are the same in each sample.
    """
    noisy = neighbourhood.perturb(_changed(neighbourhood, inputs), draw)
    if isinstance(inputs, Tensor):
        return noisy
    others = inputs.mapped(lambda x: x.expand(len(noisy), *x.shape))
    return others.with_entry(_key(neighbourhood, inputs), noisy)


def _of_tokens(neighbourhood: Neighbourhood) -> bool:
    return isinstance(neighbourhood, OfTokens) and neighbourhood.of_tokens


def _changed(neighbourhood: Neighbourhood, inputs: Inputs) -> Tensor:
    """The tensor in which neighbours differ."""
    if isinstance(inputs, Tensor):
        return inputs
    return inputs.entries[_key(neighbourhood, inputs)]


def _key(neighbourhood: Neighbourhood, inputs: Inputs) -> str:
    if isinstance(inputs, Tensor):
        return ""
    key = inputs.main if _of_tokens(neighbourhood) else inputs.around
    assert key is not None, "neighbours x' need floating inputs"
    return key
