"""l(y, f(ψ(x), w)) when f has more classes than the teacher's labels y."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from phiopt._inputs import Targets
from phiopt._types import Loss
from phiopt.data import LEFT_OUT, check_range

TWICE = (
    "its outputs are probabilities, as of a softmax inside the model, and cross-entropy takes a softmax of them once "
    "more; let the model return logits, or give a loss= of probabilities"
)
"""What is wrong with outputs that `are_probabilities`, for a warning."""


def student_loss(loss: Loss | None, classes: Tensor, class_axis: int, restrict: bool) -> Loss:
    """The per-example loss of the student's outputs against the teacher's targets.

    Args:
        loss: ``l(outputs, targets)`` to ``(batch,)`` losses; None is cross-entropy, whose outputs
            are logits and which is averaged over the positions of an example where there are
            several. Positions with the label -100 do not count.
        classes: ``(c1,)`` student output index of each of the teacher's classes.
        class_axis: Axis of the outputs that holds the classes.
        restrict: False: l(y, ·) sees all c2 outputs and class ``classes[y]``, so unseen classes are in
            the softmax. True: it sees the outputs of the teacher's classes alone, and y itself.

    Targets that are not integers (regression), and several by name, are passed on as they are. So are labels that are
    none of the teacher's classes, such as -100, which ``loss`` leaves out.
    """
    plain = cross_entropy_along(class_axis) if loss is None else loss
    in_place = torch.equal(classes, torch.arange(len(classes), device=classes.device))

    def only_teacher_classes(outputs: Tensor, targets: Any) -> Tensor:
        return plain(outputs.index_select(class_axis, classes), targets)

    def relabelled(outputs: Tensor, targets: Any) -> Tensor:
        if not isinstance(targets, Tensor) or targets.is_floating_point():
            return plain(outputs, targets)
        last = len(classes) - 1
        known = (targets >= 0) & (targets <= last)
        return plain(outputs, torch.where(known, classes[targets.clamp(0, last)], targets))

    if restrict:
        return only_teacher_classes
    return plain if in_place else relabelled


def cross_entropy_along(class_axis: int) -> Loss:
    """Cross-entropy of logits that have the classes on this axis, the mean over the positions of an
    example where there are several. Positions with the label -100 do not count, and the loss of an example with no
    others is 0.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        losses = cross_entropy(
            outputs.movedim(class_axis, 1), targets, ignore_index=LEFT_OUT, reduction="none"
        )
        if losses.dim() == 1:
            return losses
        count = (targets != LEFT_OUT).flatten(1).sum(1)
        return losses.flatten(1).sum(1) / count.clamp(min=1)

    return loss


def are_probabilities(outputs: Tensor, class_axis: int) -> bool:
    """Whether outputs are certainly the result of a softmax over the classes, and no logits: not negative, with the
    sum 1 on each row, and no mere 0 and 1.
    """
    rows = outputs.detach().movedim(class_axis, -1).flatten(0, -2).double()
    if rows.shape[-1] < 2 or len(rows) < 2 or not (rows >= 0).all():
        return False
    close = (rows.sum(-1) - 1).abs() <= 4 * torch.finfo(outputs.dtype).eps ** 0.75
    return bool(close.all()) and bool(((rows > 0) & (rows < 1)).any())


def check_labels(name: str, outputs: Tensor, targets: Targets, left_out: bool = False) -> None:
    """Refuse, by ``name``, targets that are no class indices ``(batch, ...)`` of logits ``(batch,
    classes, ...)``: several by name, floating ones, labels that have no output, and outputs with the
    classes on another axis. With ``left_out``, labels -100 are no reason.
    """
    if not isinstance(targets, Tensor):
        raise TypeError(
            f"{name}: targets are a mapping of {', '.join(targets.named)}, must be one tensor of integer class indices"
        )
    if targets.is_floating_point():
        raise TypeError(f"{name}: targets are {targets.dtype}, must be integer class indices")
    check_class_axis(name, outputs, targets)
    classes = outputs.shape[1]
    labels = targets[targets != LEFT_OUT] if left_out else targets
    if labels.numel() or not targets.numel():
        check_range(name, labels, classes, f"the model has {classes} outputs")


def check_class_axis(name: str, outputs: Tensor, targets: Tensor) -> None:
    """Refuse, by ``name``, outputs that are not ``(batch, classes, ...)`` for targets ``(batch,
    ...)``, as far as shapes tell.
    """
    if outputs.dim() < 2 or targets.shape[1:] != outputs.shape[2:]:
        raise ValueError(
            f"{name}: targets are {tuple(targets.shape)} where outputs are "
            f"{tuple(outputs.shape)}; outputs must be logits (batch, classes, ...), the classes on "
            "axis 1, and targets (batch, ...)"
        )
