"""Pictures that need no network: scikit-image's photographs, patches of them, and styles drawn by code."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from .drawings import DRAWINGS

__all__ = ["PhotoPatches", "instance_example", "photos", "styles"]

# Pictures inside the scikit-image wheel; it downloads all others. They are in colour unless marked.
_PHOTOS = {
    "astronaut": "astronaut",
    "cat": "cat",
    "coffee": "coffee",
    "rocket": "rocket",
    "motorcycle": "stereo_motorcycle",
    "hubble": "hubble_deep_field",
    "retina": "retina",
    "tissue": "immunohistochemistry",
    "brick": "brick",  # gray
    "grass": "grass",  # gray
    "gravel": "gravel",  # gray
}

_TEXTURES = ("tissue", "brick", "gravel")


def photos(*names: str) -> dict[str, Tensor]:
    """Photographs that come inside the scikit-image wheel, as uint8 tensors.

    >>> photos("cat")["cat"].shape
    torch.Size([3, 300, 451])

    Args:
        names: which ones; all of them if none is given. In colour: astronaut, cat, coffee, rocket,
            motorcycle, hubble, retina, tissue. Textures, gray and repeated over three channels: brick,
            grass, gravel.

    Returns:
        ``{name: tensor}``, each of shape (3, H, W) and dtype uint8, yours to change.

    Raises:
        KeyError: for an unknown name; it lists the known ones.
        TypeError: for what is no name, such as a list of names.
    """
    _check_names("photo", names, _PHOTOS)
    return {name: torch.from_numpy(_photo(name).copy()).permute(2, 0, 1) for name in names or _PHOTOS}


def _check_names(kind: str, names: tuple[str, ...], known: Collection[str]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"names are given one by one, as strings: {kind}s('a', 'b'); got {name!r}")
    unknown = [n for n in names if n not in known]
    if unknown:
        raise KeyError(f"no {kind} named {', '.join(map(repr, unknown))}; there are {', '.join(known)}")


@cache
def _photo(name: str) -> NDArray[np.uint8]:
    """One photograph, (H, W, 3)."""
    import skimage.data

    image = getattr(skimage.data, _PHOTOS[name])()
    image = image[0] if isinstance(image, tuple) else image  # the motorcycle comes as a stereo pair
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def styles(*names: str) -> dict[str, Tensor]:
    """Pictures to take a style from, as uint8 tensors: drawn by code, and textures of scikit-image.

    >>> list(styles())
    ['strokes', 'mosaic', 'waves', 'halftone', 'planes', 'hatching', 'marble', 'tissue', 'brick', 'gravel']
    >>> styles("mosaic")["mosaic"].shape
    torch.Size([3, 384, 384])

    Args:
        names: which ones; all of them if none is given.

    Returns:
        ``{name: tensor}``, each of shape (3, H, W) and dtype uint8, yours to change.

    Raises:
        KeyError: for an unknown name; it lists the known ones.
        TypeError: for what is no name, such as a list of names.
    """
    known = [*DRAWINGS, *_TEXTURES]
    _check_names("style", names, known)
    return {name: torch.from_numpy(_style(name).copy()).permute(2, 0, 1) for name in names or known}


@cache
def _style(name: str) -> NDArray[np.uint8]:
    return DRAWINGS[name]() if name in DRAWINGS else _photo(name)


# Two images of three channels of 5 × 5 values. Each block is a channel, each word a row, each digit a value.
_INSTANCE_EXAMPLE = """
12927 50318 41306 25295 65132   45708 58535 42165 73210 61226   37450 54689 61916 93024 12552
72142 54650 12428 59051 76246   54257 61405 89476 45567 12741   74897 55814 32252 10376 45455
"""


def instance_example() -> Tensor:
    """The two small images on which chapter 7 works instance normalization out by hand.

    >>> x = instance_example()
    >>> x.shape, x.dtype
    (torch.Size([2, 3, 5, 5]), torch.float64)
    >>> x[0, 0, 0]
    tensor([1., 2., 9., 2., 7.], dtype=torch.float64)
    """
    digits = [int(digit) for digit in "".join(_INSTANCE_EXAMPLE.split())]
    return torch.tensor(digits, dtype=torch.float64).view(2, 3, 5, 5)


class PhotoPatches(Dataset[tuple[Any, int]]):
    """A small labelled image set of real photographs: square patches, labelled by the photo they come from.

    >>> train, test = PhotoPatches(train=True), PhotoPatches(train=False)
    >>> train.data.shape, len(test), train.classes[:3]
    ((1141, 32, 32, 3), 285, ['astronaut', 'cat', 'coffee'])

    It has the interface of ``torchvision.datasets.CIFAR10``, so that either can stand in for the other:
    ``data`` (uint8, N × H × W × 3), ``targets``, ``classes``, and items ``(PIL image, label)`` unless a
    ``transform`` makes something else of the image.

    The patches tile each photograph without overlap; every fifth belongs to the test set, so that no pixel is
    in both. At most 130 patches are taken from a photograph, evenly spread.

    Args:
        train: the training part (four fifths) or the test part.
        size: height and width of a patch, in pixels; at most 300, the height of the smallest photograph.
        transform: called with the PIL image of each item.

    Raises:
        TypeError: if ``train`` is no bool.
        ValueError: if ``size`` is not between 1 and 300.
    """

    def __init__(
        self, train: bool = True, size: int = 32, transform: Callable[[Any], Any] | None = None
    ) -> None:
        if not isinstance(train, bool | np.bool_):  # "test" is neither, and would select both parts
            raise TypeError(f"train must be True (training part) or False (test part), got {train!r}")
        if not 1 <= size <= 300:
            raise ValueError(f"size must be between 1 and 300 pixels, got {size}")
        self.train, self.transform = train, transform
        self.classes = list(_PHOTOS)
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        parts = [_tile(_photo(name), size, train) for name in self.classes]
        self.data: NDArray[np.uint8] = np.concatenate(parts)
        self.targets = [label for label, part in enumerate(parts) for _ in part]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image: Any = PIL.Image.fromarray(self.data[index])
        if self.transform is not None:
            image = self.transform(image)
        return image, self.targets[index]


def _tile(photo: NDArray[np.uint8], size: int, train: bool, most: int = 130) -> NDArray[np.uint8]:
    """Non-overlapping patches of one part of a photograph, (N, size, size, 3)."""
    rows, cols = photo.shape[0] // size, photo.shape[1] // size
    tiles = photo[: rows * size, : cols * size].reshape(rows, size, cols, size, 3).swapaxes(1, 2)
    last = len(tiles) * tiles.shape[1] - 1
    keep = np.unique(np.linspace(0, last, most).round().astype(int))  # spread evenly
    is_test = np.arange(len(keep)) % 5 == 2
    return np.ascontiguousarray(tiles.reshape(-1, size, size, 3)[keep[is_test != train]])
