"""A stochastic solve that writes its state every so often, and goes on from it to the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torchopt import pytree

from phiopt._described import checksum, described
from phiopt._inputs import entries_of
from phiopt._warnings import warn
from phiopt.data import Batch
from phiopt.objective import Sample
from phiopt.solve.loop import Loop
from phiopt.solve.outcome import Stats, Status
from phiopt.solve.saved_state import SavedState, write

PAUSE, SHARE = 60.0, 0.05
"""Least seconds between two writings, and the largest share of the time that goes to writing."""
FIELDS = (
    "params",
    "best",
    "best_terms",
    "best_values",
    "last_values",
    "start_values",
    "start_terms",
)
"""Attributes of a loop that are written as they are."""


@dataclass
class Checkpoint:
    """The file to which one solve writes its state, and the state from which it goes on.

    Args:
        arguments: The solve's arguments by name, as text. A state of other arguments is refused when it is read.
        path: The file to write; None: nothing is written.
        saved: The state to go on from; None: the solve begins.
    """

    arguments: Mapping[str, str]
    path: Path | None = None
    saved: SavedState | None = None
    _state: dict[str, Any] = field(default_factory=dict)
    _batch: Batch | None = None
    _start_value: float = 0.0
    _began: float = 0.0
    _due: float = 0.0

    @contextmanager
    def of(self, loop: Loop) -> Iterator[None]:
        """Let the loop go on from the saved state. Inside this context, in which the loop runs, its state is written
        when a minute has passed and a step is done; and at the end, also where that is an interrupt or an error.

        Raises:
            ValueError: The saved state is not of this loop.
            TypeError: The state cannot be written.
            OSError: The file cannot be written.
        """
        self._began = perf_counter()
        self._start_value = loop.start_values[0]  # computed anew; a loop may change it at its end
        structure = pytree.tree_structure(loop.state)
        if self.saved is not None:
            self._began -= self.saved.tree["seconds"]
            self._batch = _go_on(loop, self.saved)
        if self.path is None:
            yield
            return

        def stepped(draw: Sample) -> None:
            if pytree.tree_structure(loop.state) != structure:
                raise TypeError(
                    "checkpoint: must be None, because the state of the solver's optimizer changes its structure from "
                    "step to step"
                )
            # An interrupt may come within the next step. It leaves these tensors as they are: a step makes new ones.
            self._state = _state_of(loop)
            if draw.inputs is not None and draw.targets is not None and not _repeatable(loop):
                self._batch = draw.inputs, draw.targets
            if perf_counter() >= self._due:
                self._write_if_possible()

        self._state = _state_of(loop)
        self._write()
        loop.after_step = stepped
        try:
            yield
        finally:
            if loop.error is None and None not in loop.statuses:
                self._state = _state_of(loop)
            try:
                self._write_if_possible()
            except (
                KeyboardInterrupt
            ) as interrupt:  # the best iterate is kept, and the file as it was
                loop.interrupt(interrupt)

    def seconds(self) -> float:
        """Seconds that the solve has taken, with those before it was taken up again."""
        return perf_counter() - self._began

    def _write_if_possible(self) -> None:
        """Write the state. A full disk is no reason to lose a solve."""
        try:
            self._write()
        except OSError as error:
            self._due = perf_counter() + PAUSE
            warn(f"checkpoint: {self.path} was not written: {error}")

    def _write(self) -> None:
        assert self.path is not None
        began = perf_counter()
        history = self._state["history"][: self._state["records"]]
        state = self._state | {"history": history, "seconds": self.seconds()}
        state["start_value"] = self._start_value
        if self._batch is not None:
            state["batch"] = _sketch(self._batch)
        write(self.path, self.arguments, state)
        now = perf_counter()
        self._due = now + max(PAUSE, (now - began) / SHARE)


def _state_of(loop: Loop) -> dict[str, Any]:
    """The state of one solve between two steps. It shares its tensors with the loop."""
    rule, status = loop.rules.get(0), loop.statuses[0]
    return {
        **{name: getattr(loop, name) for name in FIELDS},
        "step": loop.step,
        "optimizer": _leaves(loop.state),
        "history": loop.histories[0],
        "records": len(loop.histories[0]),
        "rollbacks": loop.rollbacks[0],
        "status": None if status is None else status.name,
        "work": vars(loop.work[0]),
        "counts": loop.solves.solve(0).objective.counts,
        "rule": None if rule is None else rule.state,
    }


def _go_on(loop: Loop, saved: SavedState) -> Batch | None:
    """Put the loop into the saved state. Returns the last batch, if it was read again."""
    state = _on_device(saved.tree, next(iter(loop.params.values())).device)
    _check_start(loop, saved.path, state["start_value"])
    loop.state = _unflattened(loop.state, state["optimizer"], saved.path)
    for name in FIELDS:
        setattr(loop, name, state[name])
    loop.step, loop.rollbacks[0], loop.histories[0] = (
        state[name] for name in ("step", "rollbacks", "history")
    )
    loop.statuses[0] = None if state["status"] is None else Status[state["status"]]
    loop.work[0] = Stats(**state["work"])
    if state["rule"] is not None:
        loop.rule(0).state = state["rule"]
    batch = _read_over(loop, saved)
    loop.solves.solve(0).objective.counts = state["counts"]
    return batch


def _check_start(loop: Loop, path: str, before: float) -> None:
    """Refuse a loop whose objective at the start is another, though the arguments look the same."""
    value, dtype = loop.start_values[0], next(iter(loop.params.values())).dtype
    if value == value and not isclose(value, before, rel_tol=torch.finfo(dtype).eps ** 0.5):
        raise ValueError(
            f"resume: {path} is of a solve whose objective at the start was {before!r}, but here it is {value!r}: the "
            "data, a function or a library has changed"
        )


def _read_over(loop: Loop, saved: SavedState) -> Batch | None:
    """Read the batches of all steps so far once more, where what is read next depends on them."""
    if _repeatable(loop) or not loop.fresh or not loop.step:
        return None
    for step in range(loop.step):
        draw = loop.solves.draw(step)
    batch: Batch = (draw.inputs, draw.targets)
    if _sketch(batch) != saved.tree.get("batch"):
        raise ValueError(
            f"resume: {saved.path} is of a solve that read another batch in step {loop.step}: the data are not the "
            "same each time they are read. Let all that draws in them begin from a seed"
        )
    return batch


def _repeatable(loop: Loop) -> bool:
    data = loop.solves.solve(0).objective.objective.data
    return data is None or data.repeatable


def _sketch(batch: Batch) -> str:
    """A checksum of a batch."""
    return checksum(described("batch", [entries_of(part) for part in batch]).values())


def _leaves(state: Any) -> list[Any]:
    """The tensors and numbers of an optimiser's state."""
    leaves = pytree.tree_leaves(state)
    for leaf in leaves:
        if not isinstance(leaf, Tensor | int | float):
            raise TypeError(
                f"checkpoint: must be None, because the state of the solver's optimizer holds a {type(leaf).__name__}, "
                "and only tensors and numbers can be written"
            )
    return leaves


def _unflattened(like: Any, leaves: list[Any], path: str) -> Any:
    """The state of an optimiser, of the same structure and on the same devices as ``like``."""
    before, structure = pytree.tree_flatten(like)
    if len(before) != len(leaves):
        raise ValueError(f"resume: {path} is of a solve whose optimizer has another state")
    placed = [
        leaf.to(old.device) if isinstance(leaf, Tensor) and isinstance(old, Tensor) else leaf
        for leaf, old in zip(leaves, before, strict=True)
    ]
    return pytree.tree_unflatten(structure, placed)


def _on_device(tree: Any, device: torch.device) -> Any:
    if isinstance(tree, Tensor):
        return tree.to(device)
    if isinstance(tree, dict):
        return {key: _on_device(value, device) for key, value in tree.items()}
    return [_on_device(value, device) for value in tree] if isinstance(tree, list) else tree
