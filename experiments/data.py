"""The data sets, as tensors in [0, 1] cut into training, validation and test parts."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from experiments.checks import CLASS_FOLDERS
from experiments.errors import UsageError


class Examples(NamedTuple):
    """Images of shape (examples, channels, height, width) in [0, 1] and their classes, int64."""

    x: Tensor
    y: Tensor

    def take(self, index: Tensor) -> "Examples":
        return Examples(self.x[index], self.y[index])

    def of(self, classes: Sequence[int]) -> "Examples":
        """The examples of these classes, renumbered 0, 1, … in the order given."""
        number = torch.full((int(self.y.max()) + 1,), -1, device=self.y.device)
        number[list(classes)] = torch.arange(len(classes), device=self.y.device)
        kept = Examples(self.x, number[self.y])
        return kept.take((kept.y >= 0).nonzero().flatten())

    def to(self, device: torch.device) -> "Examples":
        return Examples(self.x.to(device), self.y.to(device))


Source = tuple[Examples, Examples]
"""A data set's training and test images."""


class Splits(NamedTuple):
    """Validation is cut from the data set's training part; test is the same for every seed."""

    train: Examples
    validation: Examples
    test: Examples

    def to(self, device: torch.device) -> "Splits":
        return Splits(*(part.to(device) for part in self))


def digits(seed: int) -> Splits:
    """Scikit-learn's bundled 8×8 digits: 1,797 images, a fifth each for validation and test."""
    from sklearn.datasets import load_digits

    bundle = load_digits()
    x = torch.as_tensor(bundle.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.as_tensor(bundle.target, dtype=torch.int64)
    order = torch.randperm(len(x), generator=Generator().manual_seed(0))
    fifth = len(x) // 5
    everything = Examples(x, y)
    test, rest = everything.take(order[:fifth]), everything.take(order[fifth:])
    return split(rest, test, validation=fifth, seed=seed)


def fashion_mnist(root: Path, *, download: bool = False) -> Source:
    """Fashion-MNIST's 60,000 training and 10,000 test images in torchvision's layout."""
    from torchvision.datasets import FashionMNIST

    parts = []
    for train in (True, False):
        try:
            images = FashionMNIST(str(root), train=train, download=download)
        except (RuntimeError, OSError) as error:
            raise UsageError(
                f"--data {root}: Fashion-MNIST cannot be read there ({error}). Its files belong "
                f"in {root / 'FashionMNIST' / 'raw'}; --download lets torchvision fetch them."
            ) from error
        parts.append(Examples(images.data.unsqueeze(1).float() / 255, images.targets))
    return parts[0], parts[1]


def cifar10(root: Path, *, download: bool = False) -> Source:
    """CIFAR-10's 50,000 training and 10,000 test images, in a fixed random order.

    From class folders, ``root/cifar10/{train,test}/<class>/*.jpg`` (JPEG copies of the images, as `cifar10_source`
    says), where they are there; else from torchvision's own files.
    """
    folders = root / CLASS_FOLDERS
    train, test = (
        _class_folders(folders / part) if folders.is_dir() else _cifar10_files(root, part, download)
        for part in ("train", "test")
    )
    if not torch.equal(train.y.unique(), test.y.unique()):
        raise UsageError(f"--data {root}: CIFAR-10's training and test classes differ")
    return train, test


def cifar10_source(root: Path) -> str:
    """Which of the two `cifar10` reads, for what is made of them has to say so."""
    return "JPEG copies" if (root / CLASS_FOLDERS).is_dir() else "original files"


def _class_folders(root: Path) -> Examples:
    """One folder of JPEG images for each class; classes are numbered in the order of their names."""
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    classes = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    files = [(file, y) for y, folder in enumerate(classes) for file in sorted(folder.glob("*.jpg"))]
    if not files:
        raise UsageError(
            f"--data: {root} holds no class folders of .jpg images. They belong in {root / '<class>'}; without "
            f"{root.parent} torchvision's files are read, which --download lets it fetch."
        )

    def decoded(file: Path) -> Tensor:
        try:
            return decode_jpeg(read_file(str(file)), ImageReadMode.RGB)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"--data: {file} is no JPEG image that can be read ({reason})"
            ) from None

    x = torch.stack([decoded(file) for file, _ in files])
    return _shuffled(x, torch.tensor([y for _, y in files]))


def _cifar10_files(root: Path, part: str, download: bool) -> Examples:
    from torchvision.datasets import CIFAR10

    try:
        images = CIFAR10(str(root), train=part == "train", download=download)
    except (RuntimeError, OSError) as error:
        raise UsageError(
            f"--data {root}: CIFAR-10 cannot be read there ({error}). Put its class folders in "
            f"{root / 'cifar10'} or torchvision's files in {root / 'cifar-10-batches-py'}; "
            "--download lets torchvision fetch them."
        ) from error
    return _shuffled(torch.as_tensor(images.data).permute(0, 3, 1, 2), torch.tensor(images.targets))


def _shuffled(x: Tensor, y: Tensor) -> Examples:
    """In [0, 1]; part of the images then has all classes."""
    order = torch.randperm(len(x), generator=Generator().manual_seed(0))
    return Examples(x[order].float() / 255, y[order])


def split(
    train: Examples, test: Examples, *, validation: int, seed: int, limit: int | None = None
) -> Splits:
    """Cut ``validation`` examples and at most ``limit`` training ones from ``train`` by seed."""
    if validation + (limit or 1) > len(train.x):
        raise ValueError(
            f"validation and limit: {validation} and {limit}, but there are {len(train.x)} examples"
        )
    order = torch.randperm(len(train.x), generator=Generator().manual_seed(seed))
    rest = order[validation:] if limit is None else order[validation : validation + limit]
    return Splits(train.take(rest), train.take(order[:validation]), test)
