"""Units that can never learn, because every gradient that could move them is exactly zero."""

from torch import Tensor

from phiopt._types import Params


def dead_units(gradient: Params) -> dict[str, int]:
    """By weight matrix or kernel, how many of its units are dead; weights without any are left out.

    A unit is a row of the weight's first axis, what comes into it. Going out of it are the entries
    that read it in the next weight, by order, whose second axis has as many entries or a multiple
    (after flattening); if the next weight has another size the row speaks for itself. Both must
    have a gradient of exactly zero: with only one at zero the other moves, and then the first is
    moved too. Growth by zeros makes such units, and so does a ReLU that is off on all the data.

    Args:
        gradient: ∇L by the student's parameter names, in the model's order.

    Examples:
        >>> into, out = torch.ones(3, 2), torch.ones(4, 3)
        >>> into[2], out[:, 2] = 0, 0
        >>> dead_units({"0.weight": into, "2.weight": out})
        {'0.weight': 1}
    """
    weights = [(name, g) for name, g in gradient.items() if g.dim() >= 2 and g.numel()]
    counts = {}
    for i, (name, weight) in enumerate(weights):
        dead = _zero(weight)
        if i + 1 < len(weights):
            readers = weights[i + 1][1].transpose(0, 1)
            if len(readers) % len(dead) == 0:
                dead = dead & _zero(readers.reshape(len(dead), -1))
        counts[name] = int(dead.sum())
    return {name: count for name, count in counts.items() if count}


def _zero(rows: Tensor) -> Tensor:
    return (rows == 0).flatten(1).all(1)
