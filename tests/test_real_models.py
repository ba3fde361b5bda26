"""`initialize` end to end on model families as torchvision builds them, on CIFAR-10 images."""

import os
from pathlib import Path

import pytest
import torch
from torchvision.datasets import ImageFolder
from torchvision.models import MobileNetV2, VisionTransformer
from torchvision.transforms.v2.functional import pil_to_tensor

import phiopt

IMAGES = Path(os.environ.get("PHIOPT_DATA", "")) / "cifar10" / "train"

pytestmark = pytest.mark.skipif(
    "PHIOPT_DATA" not in os.environ or not IMAGES.is_dir(),
    reason="needs CIFAR-10 class folders: set PHIOPT_DATA to the folder that holds cifar10/train",
)


def images(classes, each):
    """The first images of the first classes, in [0, 1]."""
    folder = ImageFolder(str(IMAGES), transform=lambda image: pil_to_tensor(image) / 255)
    targets = torch.tensor(folder.targets)
    chosen = torch.cat([torch.nonzero(targets == c).flatten()[:each] for c in range(classes)])
    return torch.stack([folder[int(i)][0] for i in chosen]), targets[chosen]


def vit(width, heads, classes):
    return VisionTransformer(32, 8, 2, heads, width, 2 * width, num_classes=classes)


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        pytest.param(
            lambda: MobileNetV2(num_classes=5, width_mult=0.5),
            lambda: MobileNetV2(num_classes=10, width_mult=1.0),
            id="MobileNetV2",
            marks=pytest.mark.slow,
        ),
        pytest.param(lambda: vit(8, 2, 5), lambda: vit(16, 4, 10), id="ViT"),
    ],
)
def test_phi_starts_from_the_teachers_function_and_lowers_its_objective(teacher, student):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher, student = teacher(), student()
    x, y = images(classes=5, each=4)
    optimizer = torch.optim.Adam(teacher.parameters(), 1e-3)
    for _ in range(10):
        loss = torch.nn.functional.cross_entropy(teacher(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    solution = phiopt.initialize(
        teacher,
        student,
        (0.3, 0.2, 0.3, 0.2),
        (x, y),
        start="zero-out",
        solver=phiopt.TorchOpt(steps=4, batch_size=4, check_every=4),
        restrict_classes=True,
        throw=False,
    )
    assert solution.terms.keys() == {"task", "proximity", "noise", "curvature"}
    assert all(torch.isfinite(torch.tensor(v)) for v in solution.terms.values())
    assert solution.objective <= solution.start_objective
    growth = phiopt.GrowthMap.between(teacher, student, inputs=x)
    grown = phiopt.grow(teacher, student, "zero-out", map=growth, verify=True, inputs=x)
    assert grown.verification.exact
    with torch.no_grad():
        assert solution.student.eval()(x).isfinite().all()
