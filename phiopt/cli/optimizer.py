"""The state of an optimiser in a file, for the grown student."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phiopt.cli.sources import UsageError
from phiopt.growth import GrowthMap, carry_optimizer

Names = tuple[str, ...]


def carried_state(
    path: Path, growth: GrowthMap, teacher: nn.Module, grown: nn.Module
) -> dict[str, Any]:
    """The ``state_dict()`` of an optimiser of ``grown`` that goes on from the teacher's state.

    Args:
        path: A torch checkpoint of the ``state_dict()`` of an optimiser of the teacher's parameters. Only tensors
            and plain values are read from it (``weights_only``).
        growth: The map of the two models.
        teacher: The model whose parameters the optimiser holds.
        grown: The grown student.

    A state has numbers in place of names. Which parameter has which number follows from its groups: the names in
    ``param_names``, if the optimiser was made with names; else the common ways to divide parameters into groups
    with and without weight decay, of which one alone must fit the shapes.

    Raises:
        UsageError: The file holds no such state, or nothing says which number is which parameter.
    """
    state = _read(path)
    names = _names(path, state, teacher)
    parameters = dict(teacher.named_parameters())
    groups = [
        {**_settings(group), "params": [(name, parameters[name]) for name in listed]}
        for group, listed in zip(state["param_groups"], names, strict=True)
    ]
    optimizer = _Any(groups, {})
    optimizer.state.update(
        {
            parameters[name]: dict(state["state"][number])
            for group, listed in zip(state["param_groups"], names, strict=True)
            for number, name in zip(group["params"], listed, strict=True)
            if number in state["state"]
        }
    )
    return carry_optimizer(optimizer, growth, teacher, grown).state_dict()


class _Any(torch.optim.Optimizer):
    """The state of an optimiser of any class. It takes no steps."""

    def __init__(self, params: Any, defaults: Mapping[str, Any] | None = None) -> None:
        super().__init__(params, dict(defaults or {}))


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def _read(path: Path) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # as many kinds as files can be damaged in
        first = str(error).partition("\n")[0]
        raise UsageError(f"--optimizer: {path} cannot be read: {first}") from None
    for key in ("optimizer", "optimizer_state_dict"):  # a checkpoint of more than the optimiser
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not (isinstance(state, dict) and {"state", "param_groups"} <= state.keys()):
        raise UsageError(
            f"--optimizer: {path} must be a checkpoint of an optimiser's state_dict(), with 'state' and 'param_groups'"
        )
    return state


def _names(path: Path, state: Mapping[str, Any], teacher: nn.Module) -> list[Names]:
    """The names of each group's parameters."""
    groups = state["param_groups"]
    trained = {name: p for name, p in teacher.named_parameters() if p.requires_grad}
    if all("param_names" in group for group in groups):
        named = [tuple(group["param_names"]) for group in groups]
        unknown = [name for listed in named for name in listed if name not in trained]
        if unknown:
            raise UsageError(f"--optimizer: {path} has {unknown[0]!r}, which the teacher lacks")
        return named
    fitting: dict[tuple[Names, ...], None] = {}
    for divided in _divisions(trained, teacher):
        if _fits(state, divided, trained):
            fitting[tuple(divided)] = None
    if len(fitting) != 1:
        why = "more than one" if fitting else "no"
        raise UsageError(
            f"--optimizer: {path} has {len(groups)} groups of {', '.join(str(len(g['params'])) for g in groups)} "
            f"parameters, and {why} common order of the teacher's parameters fits; make the optimiser from "
            "named_parameters(), so that its state has param_names"
        )
    return list(next(iter(fitting)))


def _divisions(trained: Mapping[str, Tensor], teacher: nn.Module) -> Iterator[list[Names]]:
    """The common ways to divide parameters into groups."""
    yield [tuple(trained)]
    norms = {name for name, module in teacher.named_modules() if isinstance(module, nn.LayerNorm)}
    own = getattr(teacher, "no_weight_decay", None)
    listed = set(own()) if callable(own) else set()

    def in_norm(name: str) -> bool:
        return name.rpartition(".")[0] in norms

    rules: list[Callable[[str], bool]] = [
        lambda name: trained[name].ndim <= 1 or name.endswith(".bias"),
        lambda name: trained[name].ndim <= 1 or name.endswith(".bias") or name in listed,
        lambda name: "bias" in name or in_norm(name),
        lambda name: "bias" in name or in_norm(name) or _called_norm(name),
        lambda name: "bias" in name,
    ]
    for undecayed in rules:
        without = tuple(name for name in trained if undecayed(name))
        rest = tuple(name for name in trained if not undecayed(name))
        yield [rest, without]
        yield [without, rest]


def _called_norm(name: str) -> bool:
    """Whether a module on the path is called a norm."""
    parts = name.lower().split(".")
    return any(
        "layernorm" in part or "rmsnorm" in part or part == "norm" or part.endswith("_norm")
        for part in parts
    )


def _fits(
    state: Mapping[str, Any], divided: Sequence[Names], trained: Mapping[str, Tensor]
) -> bool:
    """Whether the groups have these sizes, and every tensor of the state the shape of its parameter. A state
    without such tensors says nothing about several groups.
    """
    groups = state["param_groups"]
    if [len(group["params"]) for group in groups] != [len(listed) for listed in divided]:
        return False
    shapes = [
        (value.shape, trained[name].shape)
        for group, listed in zip(groups, divided, strict=True)
        for number, name in zip(group["params"], listed, strict=True)
        for value in state["state"].get(number, {}).values()
        if isinstance(value, Tensor) and value.ndim > 0
    ]
    return (bool(shapes) or len(groups) == 1) and all(given == own for given, own in shapes)
