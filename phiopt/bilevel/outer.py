"""The outer loss: what the student should be good at, on data that φ does not use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torchopt
from torch import Generator, Tensor, nn
from torch.func import grad

from phiopt._checks import count, part, within
from phiopt._inputs import (
    Inputs,
    Targets,
    as_loss_takes,
    dtypes_of,
    entries_of,
    shapes_of,
)
from phiopt._outputs import logits_of, outputs_of
from phiopt._shown import shown
from phiopt._types import Function, Loss, Model, Params
from phiopt._warnings import warn
from phiopt.bilevel.trajectory import EPS_ROOT
from phiopt.data import Batch, Data, Source, check_source, leaves_out
from phiopt.objective import Neighbourhood, Uniform, pure_model
from phiopt.objective.around import caution, drawn_around, no_neighbours, perturbed
from phiopt.objective.language import check_causal, check_decoder_inputs
from phiopt.objective.loss import check_labels, cross_entropy_along
from phiopt.objective.noise import noise
from phiopt.objective.task import task
from phiopt.optimizers import check_optimizer


class Value(Protocol):
    """E of a student's parameters and, in ``beside``, its other tensors."""

    def __call__(self, w: Params, beside: Params | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Training:
    """T^k: the first steps of the training on D2, differentiated as one graph.

        w_{t+1} = T(w_t | L_f, D2)   (paper, section 2)

    The student runs in evaluation mode. Memory grows with ``steps``.

    Args:
        data: D2's training part, in the student's space and classes.
        optimizer: A TorchOpt gradient transformation; None: Adam at 1e-3.
        steps: k; default 5.
        batch_size: Examples to a step; None for all. Default 128.

    Raises:
        ValueError: ``steps`` or ``batch_size`` < 1.
        TypeError: ``optimizer`` is no gradient transformation.

    Examples:
        >>> Training((torch.randn(8, 3), torch.randint(2, (8,))), steps=2).steps
        2
    """

    data: Source
    optimizer: Any = None
    steps: int = 5
    batch_size: int | None = 128

    def __post_init__(self) -> None:
        check_source("data", self.data)
        check_optimizer(self.optimizer)
        count("steps", self.steps)
        if self.batch_size is not None:
            count("batch_size", self.batch_size)


@dataclass(frozen=True)
class OuterLoss:
    """E(w1), which `learn` minimises.

        E(w1) = (1 − ρ) L_f(w, V) + ρ L_3^δ(w, V),   w = w1, or T^k(w1) with `Training`

    ρ = 1 is the paper's criterion (section 4), ρ = 0 the clean loss. The clean loss alone does not measure
    robustness, and drives λ to a vertex. So the default is half of each. All draws are made once, so that E is a
    fixed function of w1.

    Args:
        data: V, held out from D2, in the student's space and classes. Never the test set.
        robust: ρ in [0, 1]; default 0.5.
        neighbourhood: U_δ of the criterion, in the student's input space; None: ``Uniform(0.1)``.
        training: T^k; None: E is taken at w1 itself.
        loss: ``l(outputs, targets)`` to losses of shape ``(batch,)``; None: cross-entropy of logits
            ``(batch, classes, ...)``, the classes on axis 1, or on the last axis of tokens in a mapping of outputs.
        batch_size: Examples of V that are drawn once and used; None (default) for all.

    Raises:
        ValueError: ``robust`` outside [0, 1], or ``batch_size`` < 1.
        TypeError: Another argument is not what it is said to be.

    Examples:
        >>> OuterLoss((torch.randn(8, 3), torch.randint(2, (8,))), robust=1.0).robust
        1.0
    """

    data: Source
    robust: float = 0.5
    neighbourhood: Neighbourhood | None = None
    training: Training | None = None
    loss: Loss | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        check_source("data", self.data)
        within("robust", self.robust, 0, 1)
        if self.neighbourhood is not None:
            part("neighbourhood", self.neighbourhood, Neighbourhood)
        if self.loss is not None:
            part("loss", self.loss, Function)
        if self.training is not None and not isinstance(self.training, Training):
            raise TypeError(f"training: got {shown(self.training)}, must be a Training")
        if self.batch_size is not None:
            count("batch_size", self.batch_size)

    @property
    def sources(self) -> dict[str, Source]:
        """The data of this loss, by their names in errors."""
        trained = {} if self.training is None else {"outer.training.data": self.training.data}
        return {"outer.data": self.data, **trained}

    def of(self, student: nn.Module, seed: int, *, differentiable: bool = False) -> Value:
        """E as a pure, differentiable function of the student's parameters and of its other tensors, such as
        buffers. Tensors that are not given are those of ``student``.

        Raises:
            ValueError, TypeError: The data are empty, hold NaN or are not in the student's space; ``loss`` is None
                and labels are no class indices of the outputs; or ``loss`` does not give one number for each
                example, or has no derivative although it must be ``differentiable``.
        """
        like = next(student.parameters())
        generator = Generator(like.device).manual_seed(seed)
        default = self.loss is None
        model = pure_model(student, lambda x: x, logits_of if default else outputs_of)
        loss = cross_entropy_along(1) if self.loss is None else self.loss
        data = Data(self.data, like.device, like.dtype, "outer.data", default_loss=default)
        x, y = data.batch(self.batch_size, generator)
        around = Uniform(0.1) if self.neighbourhood is None else self.neighbourhood
        if default:
            check_decoder_inputs("outer.data", student, x)
            if data.moved_labels:
                check_causal("outer.data", lambda few: model({}, few).movedim(1, -1), x[:2])
        if self.robust and (why := no_neighbours(around, x)):
            raise TypeError(
                f"outer.data: inputs are {dtypes_of(x)}, which have no neighbours x': {why}; give "
                "OuterLoss(..., robust=0)"
            )
        if self.robust and (odd := caution(around, x)):
            warn(f"outer.neighbourhood: {odd}")
        draw = drawn_around(around, x, generator) if self.robust else ()
        noisy = perturbed(around, x, draw) if self.robust else None
        batches = _batches(self.training, like, generator, default)
        named = [("outer.data", x, y), *(("outer.training.data", *batch) for batch in batches)]
        for name, inputs, targets in named:
            outputs = _outputs(name, student, model, inputs[:2])
            if self.loss is None:
                check_labels(name, outputs, targets[:2], leaves_out(inputs))
            else:
                _check_loss(loss, outputs, targets[:2], differentiable or bool(batches))

        def value(w: Params, beside: Params | None = None) -> Tensor:
            def whole(w: Params, inputs: Inputs) -> Tensor:
                return model((beside or {}) | w, inputs)

            def plain(w: Params, inputs: Inputs, targets: Targets) -> Tensor:
                return task(whole, loss, w, inputs, targets)

            w = _trained(self.training, plain, batches)(w)
            clean = plain(w, x, y) if self.robust < 1 else 0.0
            rough = 0.0 if noisy is None else noise(whole, loss, w, noisy, y)
            return torch.as_tensor(
                (1 - self.robust) * clean + self.robust * rough, device=like.device
            )

        return value


def _batches(
    training: Training | None, like: Tensor, generator: Generator, default_loss: bool
) -> list[Batch]:
    """The batches of T^k, drawn once."""
    if training is None:
        return []
    name = "outer.training.data"
    data = Data(training.data, like.device, like.dtype, name, default_loss=default_loss)
    return [data.batch(training.batch_size, generator) for _ in range(training.steps)]


def _outputs(name: str, student: nn.Module, model: Model, inputs: Inputs) -> Tensor:
    """The student's outputs, off the graph."""
    try:
        with torch.no_grad():
            return model({}, inputs)
    except RuntimeError as error:
        raise ValueError(
            f"{name}: the student's forward pass fails on inputs {dtypes_of(inputs)} of shape "
            f"{shapes_of(inputs)}; they must be in the student's space, lifted already: {error}"
        ) from error


def _check_loss(loss: Loss, outputs: Tensor, targets: Targets, differentiable: bool) -> None:
    """Refuse an ``outer.loss`` that has a wrong shape, or no derivative, on two examples."""
    with torch.enable_grad():
        losses = loss(outputs.detach().requires_grad_(), as_loss_takes(targets))
    if not isinstance(losses, Tensor) or losses.shape != (len(targets),):
        shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(
            f"outer.loss: returned {shape} for {len(targets)} examples, must give one loss per "
            f"example, shape ({len(targets)},) (reduction='none')"
        )
    if differentiable and not losses.requires_grad:
        raise ValueError(
            "outer.loss: has no derivative in the student's outputs, as accuracy has none; give a smooth loss, or "
            "search=Optuna() without outer.training, which need no derivative"
        )


def _trained(
    training: Training | None,
    loss: Callable[[Params, Inputs, Targets], Tensor],
    batches: list[Batch],
) -> Callable[[Params], Params]:
    """T^k on these batches."""
    if training is None:
        return lambda w: w
    optimizer = training.optimizer or torchopt.adam(1e-3, eps_root=EPS_ROOT)

    def trained(w: Params) -> Params:
        state = optimizer.init(w)
        for x, y in batches:
            gradient = grad(loss)(w, x, y)
            updates, state = optimizer.update(gradient, state, params=w, inplace=False)
            w = torchopt.apply_updates(w, updates, inplace=False)
        return w

    return trained


def check_disjoint(name: str, data: Source, test: Source) -> None:
    """Refuse data of which an example is also in the test set; inputs are compared bit by bit."""
    tested = _rows("test", test)
    common = sum(row in tested for row in _rows(name, data))
    if common:
        raise ValueError(
            f"{name}: {common} of its different inputs are in the test set too; choosing λ by "
            "test data makes the test worthless. Hold out a part of the training data"
        )


def _rows(name: str, source: Source) -> set[bytes]:
    data = Data(source, torch.device("cpu"), torch.float64, name)
    inputs, _ = data.batch(None, Generator())
    return {b"".join(x.numpy().tobytes() for x in entries_of(row).values()) for row in inputs}
