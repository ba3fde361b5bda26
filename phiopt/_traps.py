"""Arguments that are allowed and probably not meant, said aloud before the work: one warning for each.

It costs one forward pass of the teacher, on at most `EXAMPLES` examples of the first batch.
"""

from __future__ import annotations

import warnings
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _NormBase

from phiopt._inputs import Inputs
from phiopt._types import Loss
from phiopt._warnings import warn
from phiopt.data import LEFT_OUT, Data, leaves_out
from phiopt.objective import Neighbourhood, Objective, pure_model
from phiopt.objective.around import caution
from phiopt.objective.loss import TWICE, are_probabilities

EXAMPLES = 512
"""Examples at most, evenly spread over the first batch."""
POSITIONS, CHUNK = 4096, 32
"""Labels at most, where an example has several, and examples that go through the teacher at once."""
FEWEST = 100
"""Labels from which a teacher may be said to guess."""


def warn_of_traps(
    teacher: nn.Module,
    loss: Loss | None,
    neighbourhood: Neighbourhood,
    objective: Objective,
    class_axis: int,
) -> None:
    """Warn of a neighbourhood that does not suit the inputs, of a softmax before the cross-entropy, of a teacher that
    guesses, and of batch norms without statistics.
    """
    data = objective.data
    if data is None or not {"task", "noise", "curvature"} & {*objective.active}:
        return
    inputs, targets = _few(data)
    if "noise" in objective.active and (odd := caution(neighbourhood, inputs)):
        warn(f"neighbourhood: {odd}")
    if unused := _norms_without_statistics(teacher):
        warn(
            f"teacher: its running statistics were never updated, in {unused} (num_batches_tracked is 0). The models "
            "run in evaluation mode, with mean 0 and variance 1; run the teacher over its data in training mode "
            "first, or load its buffers too"
        )
    takes_logits = loss is None or isinstance(loss, nn.CrossEntropyLoss) or loss is cross_entropy
    if not takes_logits or class_axis < 1 or not isinstance(targets, Tensor):
        return
    answers, probable = _answers(teacher, inputs, objective.micro_batch or CHUNK, class_axis)
    if probable:
        warn(f"teacher: {TWICE}")
    if answers is None or answers.shape != targets.shape:
        return
    if loss is None and not targets.is_floating_point():
        counts = targets != LEFT_OUT if leaves_out(inputs) else torch.ones_like(targets).bool()
        _warn_of_guesses(answers[counts], targets[counts])


def _few(data: Data) -> tuple[Inputs, Inputs]:
    """The first batch, or examples evenly spread over it."""
    inputs, targets = data.example
    positions = targets[0].numel() if isinstance(targets, Tensor) else 1
    most = min(EXAMPLES, max(FEWEST // 10, POSITIONS // max(positions, 1)))
    if len(inputs) <= most:
        return inputs, targets
    index = torch.linspace(0, len(inputs) - 1, most).long()
    return inputs[index], targets[index]


@torch.no_grad()
def _answers(
    teacher: nn.Module, inputs: Inputs, size: int, class_axis: int
) -> tuple[Tensor | None, bool]:
    """The teacher's answers, so many examples at once, and whether its outputs are probabilities. No answers where it
    does not run: no error of a look at it may end a solve.
    """
    answers, probable = [], []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the solve gives the user's own
            model = pure_model(teacher, lambda x: x)
            for start in range(0, len(inputs), min(size, CHUNK)):
                outputs = model({}, inputs[start : start + min(size, CHUNK)])
                answers.append(outputs.argmax(class_axis))
                if len(outputs) > 1:  # a single row may look like anything
                    probable.append(are_probabilities(outputs, class_axis))
    except Exception:
        return None, False
    return torch.cat(answers), bool(probable) and all(probable)


def _norms_without_statistics(teacher: nn.Module) -> str:
    """Names of layers whose running statistics are those of a new layer; empty if there are none."""
    names = [
        name or "the teacher itself"
        for name, part in teacher.named_modules()
        if isinstance(part, _NormBase) and _is_new(part)
    ]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _is_new(norm: _NormBase) -> bool:
    count, mean, variance = norm.num_batches_tracked, norm.running_mean, norm.running_var
    if count is None or mean is None or variance is None:
        return False
    return int(count) == 0 and not mean.any() and bool((variance == 1).all())


def _warn_of_guesses(answers: Tensor, labels: Tensor) -> None:
    """Warn where a teacher is certainly no better on its own data than its answers at random.

    Answers that are independent of the labels, and as frequent as these, are right with probability
    p = Σ_k P(answer = k) P(label = k). The share of right answers must not differ from p by two standard errors, and
    must be far from 1 by three, which takes enough labels.
    """
    n = len(labels)
    if n < FEWEST:
        return
    classes = 1 + int(torch.maximum(answers.max(), labels.max()))
    right = float((answers == labels).double().mean())
    frequencies = [
        torch.bincount(x.flatten(), minlength=classes).double() / n
        for x in (answers, labels.clamp(min=0))
    ]
    chance = float(frequencies[0] @ frequencies[1])
    error = sqrt(max(chance * (1 - chance), 1e-12) / n)
    if right <= chance + 2 * error and right + 3 * error < chance + 0.2 * (1 - chance):
        warn(
            f"teacher: it is right on {100 * right:.1f} % of {n} labels of its own data, where guesses would be right "
            f"on {100 * chance:.1f} %. Is it trained, and are labels numbered as its outputs and inputs scaled as "
            "in its training?"
        )
