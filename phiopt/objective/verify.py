"""Refuse a loss without a gradient, and a loss whose gradient is not that of its values."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import copy
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from phiopt._inputs import Inputs, lifted, main_of, mapped
from phiopt._types import Lift, Params
from phiopt.derivatives.double import Widened, copied_to
from phiopt.derivatives.gradients import Function, Mismatch, mismatch, unsteady
from phiopt.derivatives.guilty import (
    Guilty,
    guilty_by_hand,
    guilty_function,
    guilty_layers,
    larger,
    unsteady_layer,
    written_by_hand,
)
from phiopt.derivatives.repeated import Repeated
from phiopt.objective.examples import few_examples
from phiopt.objective.mean_loss import Task
from phiopt.objective.model import pure_model

PRECISIONS = (torch.float64, torch.float32)
FAULTS = (OSError, MemoryError, StopIteration)
"""Exceptions that have nothing to do with the precision of user code."""
NAMED = 3
"""Parameters that a message names."""
LARGE = 10**6
"""Parameters of a student up to which all examples go through it."""
LOOKED_AT = 8
"""Parameters that are compared one by one, to name some."""


class Checked:
    """The mean loss of copies in ``dtype``. Each call has the same random numbers."""

    def __init__(
        self, module: nn.Module, lift: Lift, task: Task, params: Params, dtype: torch.dtype
    ) -> None:
        self.dtype = dtype
        self.module, self.lift = copied_to(module, dtype), copied_to(lift, dtype)
        own = dict(self.module.named_parameters())  # no second copy of what the module holds
        self.params = {name: _same_as(own.get(name), p.to(dtype)) for name, p in params.items()}
        self.randomness = Repeated()
        copies = replace(
            task,
            model=pure_model(self.module, self.lift, shared=True),
            loss=copied_to(task.loss, dtype),
        )
        self.task = _examples(copies, task, dtype)

    def on(self, task: Task) -> Checked:
        """The same copies on other examples."""
        other = copy(self)
        other.task = _examples(self.task, task, self.dtype)
        return other

    def wrapped(self, function: Function) -> Function:
        """``function``, computed in this precision and with the same random numbers at each call."""

        def inside(w: Params) -> Tensor:
            widened = Widened() if self.dtype == torch.float64 else nullcontext()
            with warnings.catch_warnings(), self.randomness.again(), widened:
                warnings.simplefilter("ignore")  # other passes give the user's own
                return function(w)

        return inside

    def mismatch(self, params: Params | None = None) -> Mismatch | None:
        """How the gradient in ``params`` (None: all) is wrong, if it is."""
        fixed = self.params
        function = self.wrapped(lambda w: self.task(fixed | w))
        return mismatch(function, fixed if params is None else params)

    def outputs(self) -> Tensor:
        """The student's outputs."""
        return cast(Tensor, self._run(self.task.outputs))

    def loss_mismatch(self, outputs: Tensor) -> Mismatch | None:
        """How the gradient of the mean loss in these outputs is wrong, if it is."""
        return mismatch(self._of_outputs(), {"outputs": outputs.to(self.dtype)})

    def by_hand(self) -> Guilty | None:
        """The layer, or the loss, whose backward pass was written by hand and is wrong at larger activations."""
        if not written_by_hand(self.wrapped(self.task), self.params):
            return None
        culprits = guilty_by_hand(self.module, self._lifted(), self.wrapped)
        loss, outputs = self._loss()
        if written_by_hand(loss, outputs):
            culprits += larger(loss, outputs, None, "", "outputs")
        return culprits[0] if culprits else None

    def unsteady(self) -> str | None:
        """The message on a loss whose values change when a gradient is recorded; None if they do not."""
        values = unsteady(self.wrapped(self.task), self.params)
        if values is None:
            return None
        place = unsteady_layer(self.module, self._lifted(), self.wrapped)
        head = (
            "loss: it"
            if place is None
            else f"student: {place.name or 'the module itself'} ({place.kind})"
        )
        without, recorded = values
        return (
            f"{head} computes other values where a gradient is recorded: the mean loss is {recorded:.6g} there "
            f"and {without:.6g} elsewhere. A solver would compare the values of one function and follow the "
            "gradient of another. Remedy: ask neither torch.is_grad_enabled() nor requires_grad in it; "
            "module.training tells training from evaluation"
        )

    def guilty(self) -> list[Guilty]:
        """The layers whose gradient is wrong, and the loss if its own gradient is wrong. Empty where that cannot
        be found out.
        """
        try:
            inputs = self._lifted()
            loss, outputs = self._loss()
            return guilty_layers(self.module, inputs, self.wrapped) + guilty_function(
                loss, outputs, None, ""
            )
        except Exception:
            return []  # the gradient is wrong all the same

    def _lifted(self) -> Inputs:
        """ψ of the inputs, for a module whose own parameters require grad as the student's do."""
        for name, p in self.module.named_parameters():
            p.requires_grad_(name in self.params)
        return cast(Inputs, self._run(lambda w: lifted(self.lift, self.task.inputs.clone())))

    def _loss(self) -> tuple[Function, Params]:
        """The mean loss as a function of the outputs, and the outputs."""
        return self._of_outputs(), {"outputs": self.outputs()}

    def _of_outputs(self) -> Function:
        return self.wrapped(lambda w: self.task.of_outputs(w["outputs"]))

    def _run(self, function: Callable[[Params], Any]) -> Any:
        with torch.enable_grad():
            params = {name: p.detach().requires_grad_() for name, p in self.params.items()}
            return self.wrapped(function)(params).detach()

    def affected(self) -> list[str]:
        """Some parameters whose gradient is wrong."""
        names: list[str] = []
        try:
            for name, p in list(self.params.items())[:LOOKED_AT]:
                if len(names) < NAMED and self.mismatch({name: p}) is not None:
                    names.append(name)
        except Exception:
            return names  # the message does without the others
        return names


def verify_gradient(
    module: nn.Module,
    lift: Lift,
    task: Task,
    params: Params,
    weights: Sequence[str],
    *,
    checked_further: bool = False,
) -> None:
    """Raise unless the gradient of ``task`` is that of its values.

    Args:
        module: The student; not modified.
        lift: ψ.
        task: The student's loss on some examples. More examples are slower, and a gradient may be wrong on a few
            alone. So a student of more than `LARGE` parameters is looked at on two, and the loss on all.
        params: The point. Points near it are looked at too.
        weights: Names of the weights that count, for errors: ``lambdas.task``.
        checked_further: Whether `require_derivatives` follows, which names a layer that fails.

    Raises:
        TypeError: Names the layer or the loss, and what cuts the gradient.

    The check is made on copies in float64. Where the student's code does not run in float64 it is made in
    float32, where errors below some percents are not seen.
    """
    own = next(iter(params.values())).dtype
    last = own if own in PRECISIONS else PRECISIONS[-1]
    few = _fewer(task, params)
    for dtype in PRECISIONS:
        try:
            checked = Checked(module, lift, few, params, dtype)
            wrong = checked.mismatch()
            if wrong is None and few is not task:
                whole = checked.on(task)
                wrong = whole.loss_mismatch(Checked(module, lift, task, params, own).outputs())
                checked = checked if wrong is None else whole
            other = None if wrong else checked.unsteady() or _elsewhere(checked.by_hand())
        except FAULTS:
            raise
        except Exception:
            if not _comes_again(module, lift, few, params, dtype):
                raise
            if dtype != last:
                continue
            if dtype != own or checked_further:
                return
            raise
        if wrong is not None:
            raise TypeError(_message(wrong, checked.guilty(), checked.affected(), weights))
        if other is not None:
            raise TypeError(other)
        return


def _fewer(task: Task, params: Params) -> Task:
    """The task on the examples that a student with these parameters is looked at on."""
    if len(task) <= 2 or sum(p.numel() for p in params.values()) <= LARGE:
        return task
    places = few_examples(task.inputs).to(main_of(task.inputs).device)
    return replace(task, inputs=task.inputs[places], targets=task.targets[places])


def _comes_again(
    module: nn.Module, lift: Lift, task: Task, params: Params, dtype: torch.dtype
) -> bool:
    """Whether the check raises again. An error that does not come again has nothing to do with the precision."""
    try:
        Checked(module, lift, task, params, dtype).mismatch()
    except Exception:
        return True
    return False


def _message(
    wrong: Mismatch, guilty: list[Guilty], affected: list[str], weights: Sequence[str]
) -> str:
    place = guilty[0] if guilty else Guilty("", "", (), ())
    head = "loss: its gradient" if place.name is None else "student: the gradient"
    if place.name is not None and guilty:
        head += f" of {place.name or 'the module itself'} ({place.kind})"
    reason = "something in it is left out of the derivative"
    if place.cuts or place.jumps:
        reason = f"it calls {', '.join((*place.cuts, *place.jumps))}"
    if place.jumps and place.cuts:
        remedy = (
            "a straight-through estimator has the gradient of another function: give the smooth "
            "function in place of the one that jumps, and put it back afterwards"
        )
    elif any(cut.startswith("the backward of") for cut in place.cuts):
        remedy = "correct that backward, or use PyTorch's own functions in its place"
    elif place.name is None and guilty:
        remedy = (
            "compute that part with its derivative; a target that is to stay as it is comes with the "
            "data, or from a copy of the model whose parameters have requires_grad=False"
        )
    else:
        remedy = (
            "compute that part with its derivative, or set requires_grad=False on the parameters "
            "that are to stay as they are"
        )
    return (
        f"{head} is not that of its values: {reason}. On the first examples the mean loss changes by "
        f"{wrong.difference:.6g} along a direction in which its gradient says {wrong.slope:.6g}"
        + (f", in {', '.join(affected)} among others" if affected else "")
        + f"; {', '.join(weights)} would be minimised wrongly. Remedy: {remedy}"
    )


def _elsewhere(place: Guilty | None) -> str | None:
    """The message on a backward pass that is wrong at larger activations."""
    if place is None:
        return None
    of = "" if place.name is None else f" of {place.name or 'the module itself'} ({place.kind})"
    return (
        f"{'loss' if place.name is None else 'student'}: the gradient{of} is not that of its values where "
        f"its inputs are {place.larger:g} times as large as on the first examples: it calls "
        f"{', '.join(place.cuts)}. Remedy: correct that backward, or use PyTorch's own functions in its "
        "place"
    )


def _examples(task: Task, of: Task, dtype: torch.dtype) -> Task:
    """The task on the examples of another, in ``dtype``."""
    inputs, targets = (mapped(lambda x: _to(x, dtype), part) for part in (of.inputs, of.targets))
    return replace(task, inputs=inputs, targets=targets)


def _same_as(own: Tensor | None, value: Tensor) -> Tensor:
    """``own`` without its graph if it equals the value, else the value."""
    return value if own is None or not torch.equal(own, value) else own.detach()


def _to(part: Tensor, dtype: torch.dtype) -> Tensor:
    return part.to(dtype) if part.is_floating_point() else part
