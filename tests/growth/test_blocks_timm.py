"""Stages and blocks of timm's models: new blocks are where their stage is, and the function is kept."""

import pytest
import torch

from phiopt.growth import AlignmentError, GrowthMap, compare, grow

timm = pytest.importorskip("timm", reason="needs timm")

IMAGE = torch.zeros(2, 3, 64, 64)


def model(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=4, **options).eval()


@pytest.mark.parametrize(
    ("name", "same", "old", "new"),
    [
        (
            "swin_tiny_patch4_window7_224",
            {"embed_dim": 8, "num_heads": (1, 2), "window_size": 4, "img_size": 64},
            {"depths": (2, 2)},
            {"depths": (4, 4)},
        ),
        (
            "davit_tiny",
            {"embed_dims": (8, 16), "num_heads": (1, 2)},
            {"depths": (1, 1)},
            {"depths": (2, 3)},
        ),
        (
            "hiera_tiny_224",
            {"embed_dim": 8, "num_heads": 1, "img_size": 64},
            {"stages": (1, 1, 2, 1)},
            {"stages": (1, 2, 3, 2)},
        ),
    ],
    ids=["swin", "davit", "hiera"],
)
def test_deeper_stages_keep_the_function(name, same, old, new):
    teacher, student = model(name, **same, **old), model(name, **same, **new)
    growth = GrowthMap.between(teacher, student, inputs=IMAGE)
    assert not growth.inexact_reasons
    grown = grow(teacher, student, "zero-out", map=growth, verify=False)
    assert compare(teacher, grown, growth, inputs=torch.randn(2, 3, 64, 64)).exact


def test_a_stage_with_fewer_blocks_is_named():
    same = {"embed_dims": (8, 16), "num_heads": (1, 2)}
    teacher, student = (model("davit_tiny", depths=d, **same) for d in ((1, 2), (2, 1)))
    with pytest.raises(
        AlignmentError, match=r"'stages.1.blocks.1' has no counterpart in 'stages.1.blocks'"
    ):
        GrowthMap.between(teacher, student, inputs=IMAGE)
