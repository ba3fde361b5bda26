"""L_f on a batch: the mean loss of the student on lifted data, as a function of its parameters."""

from dataclasses import dataclass, replace

from torch import Tensor

from phiopt._inputs import Inputs, Targets, as_loss_takes
from phiopt._types import Loss, Model, Params
from phiopt.derivatives import differentiable


@dataclass(frozen=True, eq=False)
class Task:
    """L_f(w, D1*), D1* = {(ψ(x), y) | (x, y) ∈ D1}: the mean loss of the student on a batch of lifted data, as
    a function of w.

        1/m Σ_{(x, y)} l(y, f(ψ(x), w))        (paper, section 4, term 1)

    The paper sums over D1. A mean does not depend on the size of the batch. The result is a scalar,
    differentiable to fourth order in the parameters.

    Args:
        model: f(ψ(x), w), as a function of w and x.
        loss: l, which gives one value for each example.
        inputs: x, ``(batch, ...)``, or several such tensors.
        targets: y, ``(batch, ...)``, or several such tensors by name, which ``loss`` gets as a dictionary.
        weights: Factors of the examples' losses, ``(batch,)``; None: 1.

    Raises:
        ValueError: When called, if ``loss`` does not give one value for each example.
        TypeError: When called, if ``loss`` gives no floating tensor.
    """

    model: Model
    loss: Loss
    inputs: Inputs
    targets: Targets
    weights: Tensor | None = None

    def __call__(self, params: Params) -> Tensor:
        return self.of_outputs(self.outputs(params))

    def __len__(self) -> int:
        return len(self.inputs)

    def part(self, start: int, stop: int) -> "Task":
        """The same on the examples from ``start`` to ``stop``."""
        inputs, targets = self.inputs[start:stop], self.targets[start:stop]
        weights = None if self.weights is None else self.weights[start:stop]
        return replace(self, inputs=inputs, targets=targets, weights=weights)

    def subset(self, positions: Tensor, weights: Tensor) -> "Task":
        """The same on the examples at ``positions``, each with its weight."""
        inputs, targets = self.inputs[positions], self.targets[positions]
        return replace(self, inputs=inputs, targets=targets, weights=weights)

    def outputs(self, params: Params) -> Tensor:
        """f(ψ(x), w) on the batch."""
        with differentiable():
            return self.model(params, self.inputs)

    def of_outputs(self, outputs: Tensor) -> Tensor:
        """The mean loss of given outputs."""
        with differentiable():
            # Copies: a loss that works in place must reach neither the data nor the outputs.
            losses = self.loss(outputs.clone(), as_loss_takes(self.targets.clone()))
        if not isinstance(losses, Tensor) or not losses.is_floating_point():
            kind = losses.dtype if isinstance(losses, Tensor) else type(losses).__name__
            raise TypeError(
                f"loss: returned {kind}, must give a floating tensor of one loss per example, shape "
                f"({len(self)},)"
            )
        if losses.shape != (len(self),):
            raise ValueError(
                f"loss: returned shape {tuple(losses.shape)}, must give one loss per example, "
                f"shape ({len(self)},) (reduction='none')"
            )
        return losses.mean() if self.weights is None else (losses * self.weights).mean()
