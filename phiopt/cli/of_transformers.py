"""Models of transformers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from phiopt.cli.sources import Options, UsageError, config_of, no_architecture

transformers.utils.logging.disable_progress_bar()  # the weights of one file
LENGTH = 8
"""Tokens of an example."""
SPECIAL = 5
"""The first tokens of many vocabularies are special ones, such as padding."""


def knows(name: str) -> bool:
    """Whether transformers has a model type of this name."""
    return name in CONFIG_MAPPING


@dataclass
class TransformersSource:
    """A transformers model (`phiopt.cli.sources.Source`).

    Args:
        role: ``"teacher"`` or ``"student"``, for errors.
        module: The model.
    """

    role: str
    module: Any

    def example(self) -> Tensor:
        """Random tokens, images or audio features, by the model's main input."""
        config, name = self.module.config, self.module.main_input_name
        source = torch.Generator().manual_seed(0)
        if name == "input_ids":
            text = config.get_text_config()
            length = min(LENGTH, getattr(text, "max_position_embeddings", None) or LENGTH)
            least = min(SPECIAL, text.vocab_size - 1)
            return torch.randint(least, text.vocab_size, (2, length), generator=source)
        if name == "pixel_values":
            size = getattr(config, "image_size", 224)
            height, width = (size, size) if isinstance(size, int) else size
            channels = getattr(config, "num_channels", 3)
            return torch.randn(2, channels, height, width, generator=source)
        if name == "input_features" and hasattr(config, "max_source_positions"):
            length = 2 * config.max_source_positions
            return torch.randn(2, config.num_mel_bins, length, generator=source)
        raise UsageError(
            f"{self.role}: {type(self.module).__name__} reads {name}, must read input_ids, pixel_values or "
            "Whisper's input_features; in Python, pass phiopt.grow a batch of its inputs"
        )

    def read(self, path: Path) -> nn.Module:
        """The model with the weights of a safetensors file, or of a folder that has them in one or several."""
        try:
            if path.is_dir():
                module, info = self._loaded(path, use_safetensors=True)
            else:
                module, info = self._loaded(None, state_dict=load_file(path))
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise UsageError(f"{self.role}: the weights {path} cannot be read: {error}") from None
        wrong = {
            what: sorted(map(str, info[what]))
            for what in info
            if info[what] and what != "error_msgs"
        }
        if wrong:
            text = "; ".join(
                f"{what.replace('_', ' ')} {', '.join(keys[:5])}" for what, keys in wrong.items()
            )
            raise UsageError(
                f"{self.role}: the weights {path} are not those of the configuration: {text}"
            )
        self.module = module.eval()
        return self.module

    def _loaded(self, path: Path | None, **options: Any) -> tuple[Any, dict[str, Any]]:
        kind, config = type(self.module), self.module.config
        return kind.from_pretrained(path, config=config, output_loading_info=True, **options)

    def write(self, module: nn.Module, folder: Path) -> None:
        """Write ``config.json`` and the weights, as ``from_pretrained`` reads them."""
        module.save_pretrained(folder)  # type: ignore[operator]


def made(role: str, name: str, options: Options, architecture: str | None) -> TransformersSource:
    """The model of a model type, or of a folder with transformers' ``config.json``.

    Raises:
        UsageError: transformers cannot make the model, or nothing says which class is meant.
    """
    try:
        config = _configured(name, options)
        kind = _class(role, config, architecture)
        module = kind(config)
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError, OSError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{role}: transformers cannot make {name!r} with {dict(options)}: {type(error).__name__}: {error}"
        ) from None
    return TransformersSource(role, module)


def _configured(name: str, options: Options) -> Any:
    path = config_of(name)
    if path is None:
        return CONFIG_MAPPING[name](**options)
    members = json.loads(path.read_text(encoding="utf-8"))
    return CONFIG_MAPPING[members["model_type"]].from_dict(members | dict(options))


def _class(role: str, config: Any, architecture: str | None) -> Any:
    """The class of the model: as asked for, else as the configuration says."""
    listed = [architecture] if architecture is not None else config.architectures or []
    if len(listed) != 1:
        raise UsageError(
            f"{role}: the configuration of {config.model_type} does not say which class is meant; pass it, as "
            "--architecture AutoModelForCausalLM"
        )
    kind = getattr(transformers, str(listed[0]), None)
    if isinstance(kind, type) and listed[0].startswith("AutoModel"):
        kind = kind._model_mapping[type(config)]  # type: ignore[attr-defined]
        kind = kind[0] if isinstance(kind, list | tuple) else kind
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise no_architecture(role, str(listed[0]))
    return kind
