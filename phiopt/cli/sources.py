"""Models that a library makes, by a name or a configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

LIBRARIES = ("timm", "transformers")
Options = Mapping[str, Any]


class UsageError(ValueError):
    """A mistake that a person at the command line can put right. The text says how."""


class Source(Protocol):
    """A model that a library made, and how its library reads and writes models.

    Attributes:
        module: The model, in evaluation mode.
    """

    module: nn.Module

    def example(self) -> Tensor:
        """A batch of 2 inputs that the model accepts."""

    def read(self, path: Path) -> nn.Module:
        """The model with the weights of a safetensors file, or of a folder that has one."""

    def write(self, module: nn.Module, folder: Path) -> None:
        """Write the configuration and the weights of ``module``, a model of the same configuration."""


def source_of(role: str, given: str, options: Options, architecture: str | None) -> Source:
    """The model that ``given`` names.

    Args:
        role: ``"teacher"`` or ``"student"``, for errors.
        given: A timm name (``resnet18``), a model type of transformers (``gpt2``), a folder with a
            ``config.json`` of one of the two libraries, or such a file. ``timm:`` or ``transformers:`` before a
            name says which library is meant.
        options: Arguments of timm's constructor, or values of transformers' configuration.
        architecture: The class of a transformers model. ``None``: as the configuration says.

    Raises:
        UsageError: Nothing has this name, or the library cannot make the model.
    """
    library, name = _library(role, given)
    try:
        home = import_module(f"phiopt.cli.of_{library}")
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{role}: {given} needs {error.name}, which is not installed; pip install 'phiopt[families]'"
        ) from None
    source: Source = home.made(role, name, options, architecture)
    source.module.eval()
    return source


def config_of(name: str) -> Path | None:
    """The configuration file that ``name`` is, or that the folder ``name`` has; ``None`` if there is none."""
    path = Path(name)
    path = path / "config.json" if path.is_dir() else path
    return path if path.is_file() else None


def _library(role: str, given: str) -> tuple[str, str]:
    """(library, name without the prefix)."""
    prefix, colon, rest = given.partition(":")
    if colon and prefix in LIBRARIES:
        return prefix, rest
    config = config_of(given)
    if config is not None:
        return _library_of_file(role, config), given
    for library in LIBRARIES:
        if _knows(library, given):
            return library, given
    raise UsageError(
        f"{role}: got {given!r}, must be a timm name, a model type of transformers, or a folder or file "
        "with a configuration of one of them; timm:NAME and transformers:NAME say which library is meant"
    )


def _library_of_file(role: str, path: Path) -> str:
    try:
        members = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UsageError(f"{role}: {path} is no JSON file: {error}") from None
    if isinstance(members, dict):
        if "model_type" in members:
            return "transformers"
        if "architecture" in members:
            return "timm"
    raise UsageError(
        f"{role}: {path} is no configuration of timm (it lacks 'architecture') or transformers (it lacks 'model_type')"
    )


def _knows(library: str, name: str) -> bool:
    """Whether ``library`` is installed and has a model of this name."""
    try:
        return bool(import_module(f"phiopt.cli.of_{library}").knows(name))
    except ModuleNotFoundError:
        return False
