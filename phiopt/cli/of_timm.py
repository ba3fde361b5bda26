"""Models of timm."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import Tensor, nn

from phiopt.cli.sources import Options, UsageError, config_of

WEIGHTS = "model.safetensors"


def knows(name: str) -> bool:
    """Whether timm has a model of this name."""
    return bool(timm.is_model(name))


@dataclass
class TimmSource:
    """A timm model (`phiopt.cli.sources.Source`).

    Args:
        role: ``"teacher"`` or ``"student"``, for errors.
        module: The model.
        options: Arguments of the constructor.
    """

    role: str
    module: nn.Module
    options: Options

    def example(self) -> Tensor:
        """Random images of the model's input size."""
        channels, height, width = self.module.pretrained_cfg["input_size"]  # type: ignore[index]
        channels = self.options.get("in_chans", channels)
        size = self.options.get("img_size", (height, width))
        height, width = (size, size) if isinstance(size, int) else size
        source = torch.Generator().manual_seed(0)
        return torch.randn(2, channels, height, width, generator=source)

    def read(self, path: Path) -> nn.Module:
        """The model with the weights of a safetensors file, or of a folder that has one."""
        path = path / WEIGHTS if path.is_dir() else path
        try:
            self.module.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise UsageError(f"{self.role}: the weights {path} cannot be read: {error}") from None
        return self.module

    def write(self, module: nn.Module, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``, as ``timm.create_model("local-dir:FOLDER")`` reads them."""
        save_for_hf(module, folder, safe_serialization=True, model_args=dict(self.options))


def made(role: str, name: str, options: Options, architecture: str | None) -> TimmSource:
    """The model of a timm name, or of a folder with timm's ``config.json``.

    Raises:
        UsageError: timm cannot make the model.
    """
    if architecture is not None:
        raise UsageError(f"{role}: a timm model has no other class, leave out --architecture")
    config = config_of(name)
    options = dict(options)
    try:
        if config is not None:
            members = json.loads(config.read_text(encoding="utf-8"))
            options = {
                "num_classes": members.get("num_classes", 1000),
                **members.get("model_args", {}),
                **options,
            }
            name = members["architecture"]
        module = timm.create_model(name, pretrained=False, **options)
    except (RuntimeError, ValueError, TypeError, KeyError, AssertionError, AttributeError) as error:
        raise UsageError(
            f"{role}: timm cannot make {name!r} with {options}: {type(error).__name__}: {error}"
        ) from None
    return TimmSource(role, module, options)
