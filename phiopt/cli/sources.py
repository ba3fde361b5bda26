"""Models that a library makes, by a name or a configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # a mistake is answered before PyTorch is loaded
    from torch import Tensor, nn

NAMED_IN = {"timm": "models/*.py", "transformers": "models/auto/*.py"}
"""For each library the files that name its models."""
LIBRARIES = tuple(NAMED_IN)
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


def check_source(role: str, given: str) -> None:
    """Refuse a name that no library has, and a file that is no configuration, without loading a library.

    A name is let through if the library's files mention it. `source_of` knows whether it is a model's.

    Raises:
        UsageError: Nothing has this name.
    """
    library, name = _prefixed(given)
    config = config_of(name)
    if config is not None:
        _library_of_file(role, config)
    elif not any(_mentions(one, name) for one in ([library] if library else LIBRARIES)):
        raise _unknown(role, given)


def check_architecture(name: str) -> None:
    """Refuse a class that transformers' files do not have, without loading it.

    Raises:
        UsageError: No file mentions it.
    """
    folders = ("models/auto/*.py", "models/*/modeling_*.py")
    if not any(_in_files("transformers", folder, name) for folder in folders):
        raise no_architecture("--architecture", name)


def no_architecture(role: str, name: str) -> UsageError:
    return UsageError(
        f"{role}: got the architecture {name!r}, must be a model class of transformers"
    )


def _library(role: str, given: str) -> tuple[str, str]:
    """(library, name without the prefix)."""
    library, name = _prefixed(given)
    if library is not None:
        return library, name
    config = config_of(given)
    if config is not None:
        return _library_of_file(role, config), given
    for library in LIBRARIES:
        if _mentions(library, given) and _knows(library, given):
            return library, given
    raise _unknown(role, given)


def _prefixed(given: str) -> tuple[str | None, str]:
    """The library of the prefix, if there is one, and the name without it."""
    prefix, colon, rest = given.partition(":")
    return (prefix, rest) if colon and prefix in LIBRARIES else (None, given)


def _unknown(role: str, given: str) -> UsageError:
    return UsageError(
        f"{role}: got {given!r}, must be a timm name, a model type of transformers, or a folder or file "
        "with a configuration of one of them; timm:NAME and transformers:NAME say which library is meant"
    )


def _mentions(library: str, name: str) -> bool:
    """Whether the files in which an installed library names its models have this word. A tag after timm's name, as in
    resnet50.a1_in1k, does not count.
    """
    return _in_files(library, NAMED_IN[library], name.partition(".")[0])


def _in_files(library: str, files: str, word: str) -> bool:
    found = find_spec(library)  # without loading it
    if found is None or found.origin is None:
        return True  # that it is not installed is said elsewhere
    text = word.encode()
    pattern = re.compile(rb"(?<![\w-])" + re.escape(text) + rb"(?![\w-])")
    contents = (path.read_bytes() for path in Path(found.origin).parent.glob(files))
    return any(text in content and pattern.search(content) for content in contents)  # "in" is fast


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
