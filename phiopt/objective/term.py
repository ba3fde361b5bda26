"""What a term of φ's objective is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

from torch import Generator, Tensor

from phiopt._checks import Scalar
from phiopt._inputs import Inputs
from phiopt._types import Params
from phiopt.objective.mean_loss import Task
from phiopt.objective.search import Search

Draws: TypeAlias = Any
"""The random numbers of one evaluation of a term: tensors, in tuples or dictionaries."""

Terms: TypeAlias = dict[str, Tensor]

Pass: TypeAlias = Callable[[Params], tuple[Tensor, Terms]]
"""A share of the weighted sum to differentiate, and the same share of the raw terms."""


class Work(NamedTuple):
    """What one evaluation of a term costs.

    Args:
        task: Whether the student runs on the batch. Terms that need this run share it.
        forward: Forward passes of the batch beside this run. A pass of half the batch counts as half.
        hvp: Products with the Hessian of the whole batch.
    """

    task: bool = False
    forward: float = 0
    hvp: float = 0.0

    @classmethod
    def of(cls, works: Iterable[Work]) -> Work:
        """The cost of several terms together."""
        parts = list(works)
        shared = any(work.task for work in parts)
        return cls(shared, sum(work.forward for work in parts), sum(work.hvp for work in parts))


class Evaluation:
    """The student at w on one batch. What several terms need is computed once.

    Args:
        params: w.
        task: L_f on the batch; None without data.
    """

    def __init__(self, params: Params, task: Task | None) -> None:
        self.params = params
        self._task = task
        self._outputs: Tensor | None = None
        self._loss: Tensor | None = None

    @property
    def task(self) -> Task:
        """L_f on the batch, as a function of w."""
        assert self._task is not None, "this term needs data"
        return self._task

    @property
    def has_outputs(self) -> bool:
        """Whether `outputs` are known already."""
        return self._outputs is not None

    @property
    def outputs(self) -> Tensor:
        """f(ψ(x), w) on the batch."""
        if self._outputs is None:
            self._outputs = self.task.outputs(self.params)
        return self._outputs

    @property
    def loss(self) -> Tensor:
        """L_f(w) on the batch."""
        if self._loss is None:
            self._loss = self.task.of_outputs(self.outputs)
        return self._loss

    def provide(self, loss: Tensor) -> None:
        """Take L_f(w) from a term that computes it on the way. No other term then computes it again."""
        self._loss = loss


class Partition(NamedTuple):
    """What a term over the batch is evaluated on, where the batch goes through in parts.

    Args:
        task: L_f on the whole batch.
        params: w.
        draws: The term's random numbers.
        size: Examples to a pass, at most; None: all.
    """

    task: Task
    params: Params
    draws: Draws
    size: int | None


class Term(ABC):
    """One term of φ's objective L(w) = Σ λ_i L_i(w).

    A term of your own needs a ``name`` and a `value`. All else has a default. Methods are pure functions of their
    arguments and of the term's fields. Their operations can be differentiated as often as the solver and the
    adjoint need.
    """

    name: ClassVar[str]
    """What reports call the term. No two terms of an objective have the same name."""

    over: ClassVar[Literal["examples", "batch", "parameters"]] = "examples"
    """What the term is taken over. "examples": it is the mean of a number for each example. "batch": it is a
    function of the whole batch, and no such mean. "parameters": it needs no data."""

    first: ClassVar[bool] = False
    """Whether the term is evaluated first, because it computes what others can use (`Evaluation.provide`)."""

    own_inputs: ClassVar[bool] = False
    """Whether the student runs on inputs that the term makes, and not on the batch. In a stochastic step such terms
    get one half of the batch, and all others the other half."""

    third_derivatives: ClassVar[bool] = False
    """Whether the term's gradient takes third derivatives of the student's loss, as that of ‖H v‖² does. They
    are checked before a solve in which the term has weight. Where they are lacking, a term without weight is
    not reported."""

    large_draws: ClassVar[bool] = False
    """Whether the random numbers are as large as the parameters. Such numbers are not kept, but drawn again at each
    use. They must then depend on the generator alone."""

    floating_reason: ClassVar[str] = ""
    """Why the data's inputs must be floating, such as "neighbours x' need floating inputs"; empty if they need
    not be."""

    @property
    def float32_reason(self) -> str:
        """See `DeclaresPrecision`."""
        return ""

    @property
    def first_order_only(self) -> str:
        """Why derivatives beyond the gradient are wrong, and what to do; empty where they are right. Adjoints need
        them.
        """
        return ""

    @property
    def interval(self) -> int:
        """One step of a stochastic solver in so many has the term, multiplied by that number."""
        return 1

    def refuses(self, inputs: Inputs) -> str:
        """Why the term cannot be computed on such inputs; empty if it can. By default the `floating_reason` of inputs
        that are not floating.
        """
        return "" if inputs.is_floating_point() else self.floating_reason

    def draw(self, params: Params, inputs: Inputs, generator: Generator, step: bool) -> Draws:
        """The random numbers of an evaluation on these inputs; by default none.

        With ``step`` they are for a step of a stochastic solver, where only the expectation of the gradient
        counts. Their shapes depend only on the shapes of the parameters and inputs.
        """
        return ()

    def part(self, draws: Draws, start: int, stop: int) -> Draws:
        """The random numbers for the examples from ``start`` to ``stop``; by default all."""
        return draws

    @abstractmethod
    def value(self, at: Evaluation, draws: Draws) -> Tensor:
        """The raw term, a scalar."""

    def unit(self, start: Params, values: Callable[[], Tensor]) -> float:
        """What the term is divided by on the relative scale, if that is positive and finite; by default 1.
        ``values()`` are the term's values at w0 on reference draws.
        """
        return 1.0

    def work(self, draws: Draws, examples: int) -> Work:
        """What an evaluation costs."""
        return Work(task=self.over != "parameters")

    def tensors(self) -> Params:
        """What the term holds that a solution can be differentiated in, by name. Two terms may share a name only
        if they share the tensor.
        """
        return {}

    def with_tensors(self, values: Params) -> Term:
        """The same term with other values for some of `tensors`."""
        return self

    def with_delta(self, delta: Scalar) -> Term | None:
        """The same term at this δ of the problem's neighbourhood; None, the default, if the term does not depend
        on that δ.
        """
        return None

    def shared(self, start: Params) -> dict[str, Any]:
        """What problems must have in common to be solved together, by a name for messages: everything but
        `tensors`. By default the fields.
        """
        return {self.name: vars(self)}

    def reporting(self, to: Callable[[Search], None]) -> Term:
        """The same term, which calls ``to`` after every search that it makes. By default it makes none."""
        return self

    def takes(self, size: int) -> bool:
        """Whether the term does with so many examples of a stochastic step's batch. By default a term over the batch
        does not.
        """
        return self.over != "batch"

    def cheaper(self, draws: Draws) -> bool:
        """Whether `passes` gives the gradient of a stochastic step for less than `value` does."""
        return False

    def scores(self, at: Evaluation, draws: Draws) -> Tensor | None:
        """A number for each example, ``(batch,)``, for `passes`; None if it needs none. The numbers cost little
        where the outputs are known.
        """
        return None

    def passes(
        self, weight: Tensor | float, on: Partition, scores: Tensor | None
    ) -> Iterator[Pass]:
        """Passes whose gradients sum to that of ``weight`` times the term, or to an unbiased estimate of
        that gradient. For a term over the batch.
        """
        raise NotImplementedError(self._needed("passes"))

    def whole(self, on: Partition) -> Tensor:
        """`value`, part by part. For a term over the batch."""
        raise NotImplementedError(self._needed("whole"))

    def hvp(self, weight: Tensor | float, on: Partition, vector: Params) -> Params:
        """The Hessian of ``weight`` times the term, times a vector. For a term over the batch."""
        raise NotImplementedError(self._needed("hvp"))

    def _needed(self, method: str) -> str:
        return (
            f"{self.name}: a term over the batch needs a method {method}() to be computed in parts of micro_batch "
            "examples; write that method, or give micro_batch=None"
        )


def evaluated(terms: Sequence[Term], at: Evaluation, draws: Mapping[str, Draws]) -> Terms:
    """The raw terms by name, in their order.

    Raises:
        TypeError: A term is no scalar; the message names the term.
    """
    values: Terms = {}
    for term in sorted(terms, key=lambda term: not term.first):
        value = values[term.name] = term.value(at, draws[term.name])
        if not isinstance(value, Tensor) or value.dim():
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{term.name}: its value is {shape}, must be a tensor without axes")
    return {term.name: values[term.name] for term in terms}
