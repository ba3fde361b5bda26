"""An experiment: where its data comes from and which tasks it is made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch

from experiments import study
from experiments.errors import UsageError
from experiments.records import RunDirectory
from experiments.scales import Scale
from experiments.task import Method, Task

Images = TypeVar("Images")
Loaded = TypeVar("Loaded", covariant=True)


class Load(Protocol[Loaded]):
    """Reads data sets from a folder in torchvision's layout."""

    def __call__(self, root: Path, *, download: bool) -> Loaded: ...


@dataclass(frozen=True)
class Experiment(Generic[Images]):
    """Tasks on data; the command line runs it by its name."""

    name: str
    load: Load[Images]
    tasks: Callable[[Scale, Images], list[Task]]
    methods: Mapping[str, Method] | None = None
    """What is compared in its tasks; None: `task.METHODS`, of which the paper's where none are named."""
    mlp_at_quick: bool = False
    """At the quick scale the MLP's tasks alone, unless others are named."""

    def run(
        self,
        scale: Scale,
        tasks: Sequence[Task],
        names: Sequence[str] | None,
        methods: Sequence[str],
        seeds: Sequence[int],
        device: torch.device,
        out: Path,
    ) -> None:
        """Run what is missing of the tasks of these names, print and write the report.

        None: all, or the MLP's alone (``mlp_at_quick``). A method that is of other tasks is left out of a task.
        ``out`` belongs to all the tasks, so that others can be added to it later.
        """
        if names is None and self.mlp_at_quick and scale.name == "quick":
            names = [task.name for task in tasks if "mlp" in task.name.split("-")]
        wanted = chosen(tasks, names)
        directory = RunDirectory(out, study.settings(f"{self.name}, {scale.name}", tasks))
        for task in wanted:
            available = [method for method in methods if method in task.registry]
            study.finish(task, available, seeds, directory, device, suffix=".svg")


def chosen(tasks: Sequence[Task], names: Sequence[str] | None) -> list[Task]:
    """The tasks of these names, all for None and "all"; ``UsageError`` lists them where one is unknown."""
    by_name = {task.name: task for task in tasks}
    if names is None or list(names) == ["all"]:
        return list(tasks)
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise UsageError(
            f"--tasks: unknown {', '.join(unknown)!r}; choose from {', '.join(by_name)}"
        )
    return [by_name[name] for name in names]
