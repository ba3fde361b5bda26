"""Layers on images with another option than the teacher's: the map refuses another function, or says so."""

import pytest
from torch import nn
from torch.nn import functional as F

from tests.growth.pairs import listed, of_width, outcome, pool, resampled

CHANGED = {
    "GroupNorm groups": (of_width(lambda w: nn.GroupNorm(2, w)), of_width(lambda w: nn.GroupNorm(4, w))),
    "GroupNorm eps": (of_width(lambda w: nn.GroupNorm(w, w)), of_width(lambda w: nn.GroupNorm(w, w, 0.1))),
    "InstanceNorm eps": (F.instance_norm, lambda x: F.instance_norm(x, eps=0.1)),
    "BatchNorm training": (
        of_width(lambda w: nn.BatchNorm2d(w)),
        of_width(lambda w: nn.BatchNorm2d(w, track_running_stats=False)),
    ),
    "LocalResponseNorm": (nn.LocalResponseNorm(3), nn.LocalResponseNorm(3, alpha=0.5)),
    "padding mode": (
        of_width(lambda w: nn.Conv2d(w, w, 3, padding=1)),
        of_width(lambda w: nn.Conv2d(w, w, 3, padding=1, padding_mode="circular")),
    ),
    "reflect or replicate": (
        of_width(lambda w: nn.Conv2d(w, w, 3, padding=1, padding_mode="reflect")),
        of_width(lambda w: nn.Conv2d(w, w, 3, padding=1, padding_mode="replicate")),
    ),
    "reflect margins": (nn.ReflectionPad2d((1, 0, 1, 0)), nn.ReflectionPad2d((0, 1, 0, 1))),
    "pad value": (nn.ConstantPad2d(1, 0.0), nn.ConstantPad2d(1, 1.0)),
    "dilation": (
        of_width(lambda w: nn.Conv2d(w, w, 3, padding=1)),
        of_width(lambda w: nn.Conv2d(w, w, 3, padding=2, dilation=2)),
    ),
    "stride and padding of a convolution": (
        of_width(lambda w: nn.Conv2d(w, w, 3, 4, padding=1)),
        of_width(lambda w: nn.Conv2d(w, w, 3, 4, padding=0)),
    ),
    "convolution groups": (
        of_width(lambda w: nn.Conv2d(w, w, 3, groups=2)),
        of_width(lambda w: nn.Conv2d(w, w, 3, groups=4)),
    ),
    "output_padding": (
        of_width(lambda w: nn.ConvTranspose2d(w, w, 3, 2, padding=1, output_padding=1)),
        of_width(lambda w: nn.ConvTranspose2d(w, w, 3, 2, padding=0, output_padding=0)),
    ),
    "max or average pool": (pool("max_pool2d", 3, 1, 1), pool("avg_pool2d", 3, 1, 1)),
    "adaptive max or average": (pool("adaptive_max_pool2d", 2), pool("adaptive_avg_pool2d", 2)),
    "adaptive size": (pool("adaptive_avg_pool2d", 2), pool("adaptive_avg_pool2d", 4)),
    "count_include_pad": (
        pool("avg_pool2d", 3, 1, 1),
        pool("avg_pool2d", 3, 1, 1, count_include_pad=False),
    ),
    "divisor_override": (pool("avg_pool2d", 3), pool("avg_pool2d", 3, divisor_override=2)),
    "pool kernel": (pool("max_pool2d", 3, 1, 1), pool("max_pool2d", 5, 1, 2)),
    "pool dilation": (pool("max_pool2d", 3, 1, 1), pool("max_pool2d", 3, 1, 1, dilation=2)),
    "pool padding": (pool("max_pool2d", 3, 4, 1), pool("max_pool2d", 3, 4, 0)),
    "ceil_mode": (pool("max_pool2d", 2, 2), pool("max_pool2d", 2, 2, ceil_mode=True)),
    "upsample": (nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode="bilinear")),
    "bicubic": (
        nn.Upsample(scale_factor=2, mode="bicubic"),
        nn.Upsample(scale_factor=2, mode="bilinear"),
    ),
    "align_corners": (
        nn.Upsample(size=11, mode="bilinear"),
        nn.Upsample(size=11, mode="bilinear", align_corners=True),
    ),
    "antialias": (
        pool("interpolate", 5, mode="bilinear"),
        pool("interpolate", 5, mode="bilinear", antialias=True),
    ),
    "scale kept": (
        pool("interpolate", scale_factor=1.5, mode="bilinear"),
        pool("interpolate", scale_factor=1.5, mode="bilinear", recompute_scale_factor=True),
    ),
    "size of an interpolation": (pool("interpolate", 11), pool("interpolate", 13)),
    "pixel_shuffle": (pool("pixel_shuffle", 2), lambda x: F.interpolate(x[:, :2], scale_factor=2)),
    "softmax dim": (lambda x: x.softmax(2), lambda x: x.softmax(3)),
    "transposed": (lambda x: x.softmax(2) ** 2, lambda x: x.mT.softmax(2) ** 2),
    "axes of a norm over pixels": (
        lambda x: F.layer_norm(x, (9,)),
        lambda x: F.layer_norm(x, (9, 9)),
    ),
    "align_corners of a grid": (resampled(False), resampled(True)),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "widths"), listed(CHANGED, slow=12))
def test_another_option_is_refused_or_remarked(old, new, widths):
    said = outcome("image", old, new, widths)
    assert said.startswith(("refused", "remarked")), said


KEPT = {
    "groups of a size": (of_width(lambda w: nn.GroupNorm(w // 4, w)), of_width(lambda w: nn.GroupNorm(w // 4, w))),
    "convolution groups of a size": (
        of_width(lambda w: nn.Conv2d(w, w, 3, groups=w // 4)),
        of_width(lambda w: nn.Conv2d(w, w, 3, groups=w // 4)),
    ),
    "depthwise": (
        of_width(lambda w: nn.Conv2d(w, w, 3, groups=w)),
        of_width(lambda w: nn.Conv2d(w, w, 3, groups=w)),
    ),
    "a larger kernel, padded": (
        of_width(lambda w: nn.Conv2d(w, w, 3, padding=1)),
        of_width(lambda w: nn.Conv2d(w, w, 5, padding=2)),
    ),
    "adaptive": (pool("adaptive_avg_pool2d", 3), pool("adaptive_avg_pool2d", (3, 3))),
    "pool stride by default": (pool("max_pool2d", 3), pool("max_pool2d", (3, 3), 3)),
    "upsample by size or factor": (nn.Upsample(size=18), nn.Upsample(scale_factor=2)),
    "corners": (
        nn.Upsample(size=18, mode="bilinear", align_corners=True),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    ),
    "reflect": (nn.ReflectionPad2d(1), nn.ReflectionPad2d((1, 1, 1, 1))),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "widths"), listed(KEPT, slow=8))
def test_the_same_option_written_otherwise_keeps_the_function(old, new, widths):
    assert outcome("image", old, new, widths) == "exact"
