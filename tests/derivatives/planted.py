"""What cuts or falsifies a derivative, each with a twin of the same values that does not.

Functions of an activation x, or of x and a weight w.
"""

import torch
import torch.nn.functional as F
from torch import nn

from tests.functions import SquareOnce, by_hand


def still(function):
    """The same under ``torch.no_grad``."""

    def run(x):
        with torch.no_grad():
            return function(x)

    return run


def written(x):
    y = x.clone()
    y.data.mul_(1.5)
    return y.sin()


def hooked(x):
    x = x * 1
    if x.requires_grad:
        x.register_hook(lambda gradient: 0.7 * gradient)
    return x


def hooked_module():
    """A module whose backward hook shrinks a gradient."""
    identity = nn.Identity()
    identity.register_full_backward_hook(lambda module, inwards, outwards: (0.7 * inwards[0],))
    return lambda x: identity(x * 1)


def gate(x):
    return (x > 0).to(x.dtype)


def quantised(x):
    return (4 * x).round() / 4


def largest(x):
    return F.one_hot(x.argmax(1), x.shape[1]).to(x)


def chosen(x):
    """The largest is let through, and its gradient is a softmax's."""
    soft = x.softmax(1)
    return x * (largest(x) - soft.detach() + soft)


CUTS = {
    "detach": (lambda x: x * x.sigmoid().detach(), lambda x: x * x.sigmoid()),
    "a small part": (lambda x: x + 1e-2 * x.square().detach(), lambda x: x + 1e-2 * x.square()),
    "no grad": (lambda x: x / (1 + still(torch.square)(x)), lambda x: x / (1 + x.square())),
    "data": (lambda x: x + x.data.sin(), lambda x: x + x.sin()),
    "written": (written, lambda x: (1.5 * x).sin()),
    "item": (lambda x: x / (1 + x.square().mean().item()), lambda x: x / (1 + x.square().mean())),
    "straight-through": (lambda x: x + (quantised(x) - x).detach(), quantised),
    "rounded by hand": (by_hand(quantised, torch.ones_like), quantised),
    "argmax": (chosen, lambda x: x * largest(x)),
    "sign": (by_hand(torch.sign, lambda x: gate(1 - x.abs())), torch.sign),
    "slope": (by_hand(torch.sin, lambda x: 1.05 * x.cos()), torch.sin),
    "reversed": (by_hand(torch.clone, lambda x: -torch.ones_like(x)), torch.clone),
    "hook": (hooked, lambda x: x * 1),
    "hook of a module": (hooked_module(), lambda x: x * 1),
    "norm": (lambda x: x / x.norm().detach(), lambda x: x / x.norm()),
    "weight": (lambda x, w: x * w.detach(), lambda x, w: x * w),
    "weight's data": (lambda x, w: x + w.data, lambda x, w: x + w),
    "weight without grad": (lambda x, w: x * still(torch.exp)(w), lambda x, w: x * w.exp()),
    "weight's hook": (lambda x, w: x * hooked(w), lambda x, w: x * w),
    "weight's item": (lambda x, w: x * w.mean().item(), lambda x, w: x * w.mean()),
    "half of a weight": (lambda x, w: x * w + w.detach(), lambda x, w: x * w + w),
    "weight rounded": (
        lambda x, w: x * (w + (quantised(w) - w).detach()),
        lambda x, w: x * quantised(w),
    ),
}  # fmt: skip
"""What cuts or falsifies a gradient, and the same values with their own derivative."""

TWICE = {
    "second left out": (SquareOnce.apply, torch.square),
    "second wrong": (by_hand(torch.sin, lambda x: x.detach().cos()), torch.sin),
    "second without grad": (by_hand(torch.exp, still(torch.exp)), torch.exp),
    "third wrong": (
        by_hand(torch.sin, by_hand(torch.cos, lambda x: -x.detach().sin())),
        torch.sin,
    ),
}
"""Of these the first derivative is right."""

HARMLESS = {
    "gate": lambda x: x * (x > 0) + gate(x).detach(),
    "shifted": lambda x: (x - x.amax(1, keepdim=True).detach()).softmax(1),
    "ones": lambda x: x * torch.ones_like(x).detach(),
    "steps": lambda x: x + x.round(),
    "largest": lambda x: x * largest(x) + 0.1 * x,
    "rounded": lambda x: quantised(x) + x,
    "signs": lambda x: x.sign() * x.square(),
    "clamp": lambda x: x.clamp(-0.8, 0.8) + 0.1 * x,
    "hard": lambda x: x + 0.2 * F.hardtanh(x).abs(),
    "by hand": by_hand(torch.square, lambda x: 2 * x),
    "flat": lambda x: x + 0 * x.detach(),
    "asked": lambda x: x * 2 if x.detach().isfinite().all().item() else x,
    "printed": lambda x: x.sin() if len(f"{x.detach().mean():.3f}") else x,
    "zero in value and slope": lambda x: x + (x - x).detach(),
    "of the batch": lambda x: x / x.norm(),
}
"""What looks like a cut and is none."""

MIXING = ("item", "norm", "weight's item", "of the batch")
"""Of these an example's value depends on the batch, which cannot be taken apart."""
