"""The error of two computations that cannot be paired: it names the innermost two modules whose insides differ."""

from __future__ import annotations

from collections.abc import Sequence

from phiopt.growth.constants import acts_on_each_coordinate
from phiopt.growth.errors import AlignmentError
from phiopt.growth.likeness import Likeness, Pairs
from phiopt.growth.named import Named
from phiopt.growth.runs import Computation, Item, Leaf, Run, tree


def refusal(
    teacher: Computation, student: Computation, named: Named, *, fewer: bool = False
) -> AlignmentError:
    """The error of two computations of which some operation of the teacher has no counterpart.

    With ``fewer`` the student may lack residual blocks, and the error is about something else.
    """
    numbers: dict[object, int] = {}
    likeness = Likeness(fewer=fewer)
    t, s = (
        tree(side, scope, numbers, ends=False)
        for side, scope in zip((teacher, student), named.scopes, strict=True)
    )
    under = f", and under {named} they cannot be paired" if named else ""
    while True:
        pairs = likeness.nearly(t, s)
        at = next((i for i, (a, b) in enumerate(pairs) if b is None and _needed(a, likeness)), None)
        if at is None:
            return AlignmentError.at(
                None, None, f"as many operations, but others of them make the outputs{under}"
            )
        item = pairs[at][0]
        assert item is not None
        namesake = _namesake(item, [b for a, b in pairs if a is None and b is not None])
        if namesake is None or not isinstance(item, Run):
            break
        t, s = item, namesake
    beside = _beside(pairs, at)
    problem = f"{_problem(item, beside, s, last=at == len(pairs) - 1)}{under}"
    node = None if beside is None else beside.nodes[0]
    if node is None:
        before = [b for _, b in pairs[:at] if b is not None]
        node = before[-1].nodes[-1] if before else next(iter(s.nodes), None)
    remedy = "Name other pairs with correspondence=" if named else _other_activation(item, beside)
    return AlignmentError.at(item.nodes[0], node, problem, remedy)


def _needed(item: Item | None, likeness: Likeness) -> bool:
    if isinstance(item, Leaf):
        return not item.form.omissible
    return item is not None and bool(item.needed) and not likeness.spares(item)


def _namesake(item: Item, others: Sequence[Item]) -> Run | None:
    return next((x for x in others if isinstance(x, Run) and x.name == item.name), None)


def _beside(pairs: Pairs, at: int) -> Item | None:
    """The first item that the student alone has between the same two pairs as the teacher's item at ``at``."""
    start = at
    while start and None in pairs[start - 1]:
        start -= 1
    for a, b in pairs[start:]:
        if a is None:
            return b
        if b is not None:
            return None
    return None


def _other_activation(item: Item, beside: Item | None) -> str:
    """What to do where the student has another activation; empty if the items are no activations."""
    if beside is None or not (_is_activation(item) and _is_activation(beside)):
        return ""
    old, new = item.nodes[-1].name, beside.nodes[-1].name
    return (
        f"No map keeps the function: no weights make {new} of {old}. Build the student with {old}; or build the "
        f"teacher with {new}, load its weights, train it a little until it is as good as before, and grow that. If "
        "other modules belong together, say so with correspondence="
    )


def _is_activation(item: Item) -> bool:
    """Whether the item computes each coordinate of one value from this coordinate alone."""
    inside = {v.id for node in item.nodes for v in node.outputs}
    read = {v.id for node in item.nodes for v in node.inputs} - inside
    return len(read) == 1 and all(
        acts_on_each_coordinate(node.target, node.name) for node in item.nodes
    )


def _problem(item: Item, beside: Item | None, s: Run, last: bool) -> str:
    there = repr(s.module) if s.module else "the student"
    if isinstance(item, Run):
        instead = f", which has {beside.module!r} there" if isinstance(beside, Run) else ""
        return f"the teacher's {item.module!r} has no counterpart in {there}{instead}"
    if isinstance(beside, Leaf):
        return f"{item.node.name} in the teacher but {beside.node.name} in the student"
    if last and not s.module:
        return f"the teacher alone goes on, with {item.node.name}"
    return f"{there} has no {item.node.name} there"
