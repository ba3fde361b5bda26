"""Pairs of models to grow from one to the other: torchvision's families and hand-written ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision import models as tv
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.googlenet import BasicConv2d, Inception
from torchvision.models.maxvit import MaxVit
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlockV2,
)

from benchmarks import handwritten as own
from benchmarks import sequences
from phiopt import lift

Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Family:
    """One growth to measure.

    Args:
        name: Family and what grows.
        teacher, student: Constructors.
        shape: Of one input of the teacher's; random normal, or tokens below ``vocabulary``.
        expected: ``"exact"``: a function-preserving growth exists and is found; ``"inexact"``: none exists, and the
            map says at which layer and why.
        slow: Takes more than a second.
        kind: What grows, where a family has several growths.
        options: For ``GrowthMap.between``.
    """

    name: str
    teacher: Make
    student: Make
    shape: tuple[int, ...] = (3, 64, 64)
    expected: Literal["exact", "inexact"] = "exact"
    slow: bool = False
    kind: str = ""
    vocabulary: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def inputs(self, batch: int = 4) -> Tensor:
        """A seeded batch of the teacher's inputs."""
        source = torch.Generator().manual_seed(1)
        if self.vocabulary is not None:
            return torch.randint(self.vocabulary, (batch, *self.shape), generator=source)
        return torch.randn(batch, *self.shape, generator=source, dtype=torch.float64)

    def models(self) -> tuple[nn.Module, nn.Module]:
        """Both models, every tensor random."""
        return randomised(self.teacher(), 2), randomised(self.student(), 3)


@torch.no_grad()
def randomised(module: nn.Module, seed: int) -> nn.Module:
    """``module`` in float64 and evaluation mode with random values in every parameter and statistic.

    Constructors leave heads, layer scales or norms at zero or one, where logits are constant and mistakes do not show.
    """
    source = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    scales = {f"{n}.weight" for n, m in module.named_modules() if "Norm" in type(m).__name__}
    for name, x in (*module.named_parameters(), *module.named_buffers()):
        if not x.is_floating_point():
            continue
        if (
            name.endswith("running_var")
            or name in scales
            or name.endswith(("layer_scale", "logit_scale"))
        ):
            x.copy_(0.5 + torch.rand(x.shape, generator=source, dtype=x.dtype))
        elif name in dict(module.named_parameters()) or name.endswith("running_mean"):
            spread = x[0].numel() ** -0.5 if x.ndim > 1 else 0.1
            x.copy_(spread * torch.randn(x.shape, generator=source, dtype=x.dtype))
    return module


def small_vgg(width: int, depth: int = 1) -> nn.Module:
    """VGG-BN with a head of 8 times the width in place of 4096 units."""
    stages: list[str | int] = [s for k in (1, 2, 4) for s in (*[k * width] * depth, "M")]
    features = tv.vgg.make_layers(stages, batch_norm=True)
    head = nn.Linear(16 * width, 8 * width), nn.ReLU(), nn.Dropout(), nn.Linear(8 * width, 10)
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), *head)


def resnet(block: type[BasicBlock | Bottleneck], depth: int, width: int = 64) -> nn.Module:
    return tv.ResNet(block, [depth] * 4, num_classes=10, width_per_group=width)


def densenet(growth: int, blocks: tuple[int, ...] = (2, 2), stem: int = 8) -> nn.Module:
    return tv.DenseNet(growth, blocks, stem, num_classes=10)  # type: ignore[arg-type]


def regnet(width: int, se: bool = True) -> nn.Module:
    params = BlockParams.from_init_params(
        depth=6, w_0=width, w_a=width * 1.0, w_m=2.0, group_width=8, se_ratio=0.25 if se else None
    )
    return RegNet(params, num_classes=10)


def efficientnet(width: float, depth: float = 1.0) -> nn.Module:
    blocks = [
        MBConvConfig(1, 3, 1, 32, 16, 1, width, depth),
        MBConvConfig(6, 3, 2, 16, 24, 2, width, depth),
        MBConvConfig(6, 5, 2, 24, 40, 2, width, depth),
    ]
    return EfficientNet(blocks, dropout=0.0, num_classes=10, last_channel=int(320 * width))


def convnext(width: int, depth: int = 1) -> nn.Module:
    stages = [CNBlockConfig(width, 2 * width, depth), CNBlockConfig(2 * width, None, depth)]
    return tv.ConvNeXt(stages, num_classes=10)


def vit(width: int, heads: int, depth: int = 2, mlp: int = 32, image: int = 32) -> nn.Module:
    return tv.VisionTransformer(image, 8, depth, heads, width, mlp, num_classes=10)


def swin(width: int, heads: int, depth: int = 2, ratio: float = 2.0, v2: bool = False) -> nn.Module:
    extra: dict[str, Any] = (
        {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2} if v2 else {}
    )
    return SwinTransformer(
        [4, 4], width, [depth, depth], [heads, 2 * heads], [4, 4], ratio, num_classes=10, **extra
    )


def maxvit(width: int) -> nn.Module:
    return MaxVit((64, 64), width, 2, [width, 2 * width], [1, 1], width // 2, 0.0, num_classes=10)


def inception(width: int) -> nn.Module:
    """GoogLeNet's block with four branches of unequal growth between two convolutions."""
    block = partial(Inception, pool_proj=width)
    return nn.Sequential(
        BasicConv2d(3, 2 * width, kernel_size=3),
        block(2 * width, width, width, 2 * width, 4, width),
        block(5 * width, 2 * width, width, width, 8, 2 * width),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6 * width, 10),
    )


def mobilenet_v3(width: float) -> nn.Module:
    return tv.mobilenet_v3_small(width_mult=width, num_classes=10)


def pair(name: str, make: Callable[..., nn.Module], small: Any, large: Any, **rest: Any) -> Family:
    """A family whose two members are ``make`` of two sizes: positional values, or keyword arguments."""

    def member(size: Any) -> Make:
        if isinstance(size, Mapping):
            return partial(make, **size)
        return partial(make, *size) if isinstance(size, tuple) else partial(make, size)

    return Family(name, member(small), member(large), **rest)


resnext = partial(tv.ResNet, Bottleneck, [1] * 4, 10, False)
shufflenet = partial(tv.ShuffleNetV2, num_classes=10)
on_small = partial(pair, shape=(3, 32, 32))

TORCHVISION = [
    pair("VGG-BN, width", small_vgg, 8, 12),
    pair("VGG-BN, depth", small_vgg, (8, 1), (8, 2), slow=True),
    pair("VGG-BN, width and depth", small_vgg, (8, 1), (12, 2), slow=True),
    pair("ResNet basic, depth", resnet, (BasicBlock, 1), (BasicBlock, 2), slow=True),
    pair("ResNet bottleneck, width", resnet, (Bottleneck, 1), (Bottleneck, 1, 128), slow=True),
    pair("ResNet bottleneck, depth", resnet, (Bottleneck, 1), (Bottleneck, 2), slow=True),
    pair("ResNet bottleneck, width and depth", resnet, (Bottleneck, 1), (Bottleneck, 2, 128), slow=True),
    pair("ResNeXt, group width", resnext, (8, 4), (8, 8), slow=True),
    pair("ResNeXt, groups", resnext, (8, 4), (16, 4), slow=True),
    pair("DenseNet, growth rate", densenet, 4, 6, slow=True),
    pair("DenseNet, growth rate and stem", densenet, (4, (2, 2), 8), (6, (2, 2), 12), slow=True),
    pair("DenseNet, depth", densenet, (4, (2, 2)), (4, (3, 4)), slow=True),
    pair("MobileNetV2, width", tv.MobileNetV2, (10, 0.5), (10, 1.0), slow=True),
    pair("MobileNetV2, 0.25 to 0.5", tv.MobileNetV2, (10, 0.25), (10, 0.5), expected="inexact", slow=True),
    pair("MobileNetV3, width", mobilenet_v3, 1.0, 2.0, slow=True),
    pair("MobileNetV3, 0.5 to 1", mobilenet_v3, 0.5, 1.0, expected="inexact", slow=True),
    pair("MNASNet, width", tv.MNASNet, (0.5, 10), (1.0, 10), slow=True),
    pair("ShuffleNetV2, width", shufflenet, ([2, 2, 2], [8, 16, 24, 32, 48]), ([2, 2, 2], [8, 24, 40, 64, 96]),
         slow=True),
    pair("ShuffleNetV2, depth", shufflenet, ([2, 2, 2], [8, 16, 24, 32, 48]), ([2, 3, 2], [8, 16, 24, 32, 48]),
         expected="inexact"),
    pair("EfficientNet, width", efficientnet, 0.5, 1.0, slow=True),
    pair("EfficientNet, width and depth", efficientnet, (0.5, 1.0), (1.0, 1.5), slow=True),
    pair("RegNetX, width", regnet, (16, False), (24, False), slow=True),
    pair("RegNetY, width", regnet, 16, 24, slow=True),
    pair("ConvNeXt, twice the width", convnext, 8, 16),
    pair("ConvNeXt, width", convnext, 8, 12, expected="inexact"),
    pair("ConvNeXt, depth", convnext, (8, 1), (8, 2), slow=True),
    on_small("ViT, MLP width", vit, (16, 2, 2, 32), (16, 2, 2, 48)),
    on_small("ViT, twice the width, more heads", vit, (16, 2), (32, 4), slow=True),
    on_small("ViT, twice the width, wider heads", vit, (16, 2), (32, 2), slow=True),
    on_small("ViT, width", vit, (16, 2), (24, 3), expected="inexact"),
    on_small("ViT, depth", vit, (16, 2, 2), (16, 2, 3), slow=True),
    pair("ViT, image size", vit, (16, 2, 2, 32, 16), (16, 2, 2, 32, 32), expected="inexact", shape=(3, 16, 16),
         options={"lift": lift.Pad((32, 32))}),
    pair("Swin, MLP width", swin, (8, 2, 2, 2.0), (8, 2, 2, 4.0), slow=True),
    pair("Swin, twice the width", swin, (8, 2), (16, 4), slow=True),
    pair("Swin, depth", swin, (8, 2, 2), (8, 2, 4), slow=True),
    pair("Swin V2, MLP width", swin, (8, 2, 2, 2.0, True), (8, 2, 2, 4.0, True), slow=True),
    pair("Swin V2, twice the width", swin, (8, 2, 2, 2.0, True), (16, 4, 2, 2.0, True), slow=True),
    pair("MaxViT, twice the width", maxvit, 8, 16, slow=True),
    pair("GoogLeNet, width of every branch", inception, 4, 6, slow=True),
    pair("SqueezeNet Fire, width", own.fires, 4, 6),
]  # fmt: skip

lstm = partial(sequences.Tagger, nn.LSTM)
deep_lstm = partial(sequences.Tagger, nn.LSTM, num_layers=2, bidirectional=True)
untied, without_rotary = (
    partial(sequences.Decoder, tied=False),
    partial(sequences.Decoder, rotary=False),
)
by_formula = partial(sequences.Decoder, rotary=False, fused=False, tied=False)
on_tokens = partial(pair, shape=(9,), vocabulary=11)

HANDWRITTEN = [
    pair("Branches, unequal growth", own.Branches, (4, 6, 8), (6, 7, 12), shape=(3, 12, 12)),
    pair("WaveNet gates", sequences.Gated, (6, 4, 5), (8, 6, 9), shape=(4, 16)),
    pair("WaveNet gates, depth", sequences.Gated, (6, 4, 5), (6, 4, 5, 3), shape=(4, 16)),
    on_tokens("LSTM tagger", lstm, (4, 6), (6, 9)),
    on_tokens("LSTM tagger, two layers, both directions", deep_lstm, (4, 6), (5, 9), slow=True),
    on_tokens("LSTM tagger, projection", lstm, {"embedding": 4, "hidden": 6, "proj_size": 3},
              {"embedding": 4, "hidden": 9, "proj_size": 5}),
    on_tokens("GRU tagger", sequences.Tagger, (nn.GRU, 4, 6), (nn.GRU, 6, 9)),
    on_tokens("RNN tagger", sequences.Tagger, (nn.RNN, 4, 6), (nn.RNN, 6, 9)),
    pair("LSTM cell in a loop", sequences.Cell, 6, 9, shape=(5, 5)),
    pair("GRU cell in a loop", sequences.Cell, (6, nn.GRUCell), (9, nn.GRUCell), shape=(5, 5)),
    pair("Squeeze-excitation", own.SqueezeExcitation, (6, 2), (9, 4), shape=(3, 12, 12)),
    pair("Channel shuffle, group width", own.Shuffled, 8, 12, shape=(3, 12, 12)),
    pair("Highway gates", own.Highway, 8, 13, shape=(12,)),
    pair("One block three times", own.Shared, 8, 13, shape=(12,)),
    pair("Low rank, hidden and rank", own.LowRank, (8, 3), (12, 5), shape=(48,)),
    on_tokens("Decoder, more heads", sequences.Decoder, (8, 2, 4, 12), (8, 3, 4, 20)),
    on_tokens("Decoder, twice the width", untied, (8, 2, 4, 12), (16, 4, 4, 24)),
    on_tokens("Decoder, tied embedding, twice the width", sequences.Decoder, (8, 2, 4, 12), (16, 4, 4, 24)),
    on_tokens("Decoder, width", untied, (8, 2, 4, 12), (12, 3, 4, 24), expected="inexact"),
    on_tokens("Decoder, wider heads", without_rotary, (8, 2, 4, 12), (8, 2, 6, 20)),
    on_tokens("Decoder, wider rotary heads", sequences.Decoder, (8, 2, 4, 12), (8, 2, 6, 20), expected="inexact"),
    on_tokens("Decoder, attention as a formula", by_formula, (8, 2, 4, 12), (16, 2, 6, 20)),
    on_tokens("GPT, hidden", sequences.GPT, (8, 2, 16), (8, 2, 24)),
    on_tokens("GPT, twice the width", sequences.GPT, (8, 2, 16), (16, 4, 32)),
    on_tokens("GPT, depth", sequences.GPT, (8, 2, 16), (8, 2, 16, 2)),
    pair("TransformerEncoder, twice the width", sequences.encoder, (8, 2, 16), (16, 4, 24), shape=(7, 6)),
    pair("MLP-Mixer, hidden", own.Mixer, (8, 12, 16), (8, 20, 24), shape=(3, 32, 32)),
    pair("MLP-Mixer, twice the width", own.Mixer, (8, 12, 16), (16, 20, 24), shape=(3, 32, 32)),
    pair("U-Net", own.UNet, (4, 6), (6, 10), shape=(3, 16, 16)),
    pair("TCN", sequences.TCN, 6, 9, shape=(4, 20)),
]  # fmt: skip

FAMILIES = TORCHVISION + HANDWRITTEN
