"""Finding the image in what data sets and loaders give, and which of its axes are the channels."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..core import from_numpy
from ..files import NO_DATA, read_image, standardized
from .counts import Counts, count_pixels

__all__ = [
    "ChannelDim",
    "Pixels",
    "batch_of",
    "chosen",
    "counted",
    "is_image",
    "joined",
    "pixels_in_memory",
    "pixels_of",
]

#: The axis of the channels; "gray" if there is none; None if it is where the documentation expects it.
ChannelDim = int | Literal["gray"] | None

#: An axis of so few may be that of the channels.
_FEW = 4

#: torchvision's names, Hugging Face's, and the suffixes under which webdataset gives decoded images.
_KEYS = ("image", "img", "pixel_values", "jpg", "jpeg", "png", "webp", "tif", "tiff")

# Data sets whose items are the pixels in their attribute `data`, by the class that defines `__getitem__`; a
# subclass that gives something else has a `__getitem__` of its own. The axis of the channels in `data`.
_HELD: dict[tuple[str, str], ChannelDim] = {
    ("torchvision.datasets.cifar", "CIFAR10"): -1,
    ("torchvision.datasets.mnist", "MNIST"): "gray",
    ("torchvision.datasets.svhn", "SVHN"): 1,
    ("torchvision.datasets.stl10", "STL10"): 1,
    ("normtut.data.photos", "PhotoPatches"): -1,
}


@dataclass(frozen=True)
class Pixels:
    """Pixels of N images, and what had to be decided to find them.

    Args:
        x: (N, C, H, W).
        valid: (N, H, W), where they count; None if all do.
        notes: the decisions, in words.
    """

    x: Tensor
    valid: Tensor | None = None
    notes: tuple[str, ...] = ()

    def split(self, size: int) -> Iterator[Pixels]:
        """So many images at a time."""
        for i in range(0, len(self.x), size):
            part = slice(i, i + size)
            yield replace(self, x=self.x[part], valid=None if self.valid is None else self.valid[part])

    def without(self, ignore: float | None) -> Pixels:
        """The same, less the pixels of which any channel has the value ``ignore``, which may be NaN."""
        if ignore is None:
            return self
        # An integer type of its own would make another number of −9999; and uint16 cannot be compared.
        x = self.x if self.x.is_floating_point() else self.x.to(torch.int32)
        found = x.isnan() if math.isnan(ignore) else x == ignore
        valid = ~found.any(dim=1)
        return replace(self, valid=valid if self.valid is None else self.valid & valid)


def chosen(sample: Any, key: str | int | None) -> Any:
    """The image of an item or batch: what ``key`` names, or else the first of a tuple, or under a usual name.

    Raises:
        TypeError: for a dictionary with none or several of the usual names.
        KeyError, IndexError: if there is nothing by the name of ``key``.
    """
    if key is not None:
        return sample[key]
    if isinstance(sample, tuple | list) and sample:
        return sample[0]
    if isinstance(sample, Mapping):
        usual = [k for k in _KEYS if k in sample]
        if len(usual) != 1:
            found = f"{len(usual)} images" if usual else "no image"
            raise TypeError(
                f"{found} under the usual names ({', '.join(_KEYS)}) in an item with the keys "
                f"{list(sample)}: name the one to count with key="
            )
        return sample[usual[0]]
    return sample


def is_image(value: Any) -> bool:
    """Whether something may be one image: of PIL, encoded, or a tensor or array with two or three axes."""
    from PIL import Image

    return isinstance(value, Image.Image | bytes) or (
        isinstance(value, Tensor | np.ndarray) and value.ndim in (2, 3)
    )


def pixels_of(image: Any, channel_dim: ChannelDim = None, *, batch: bool = False, mask: Any = None) -> Pixels:
    """The pixels of one image of a data set, or of a batch of images, whose first axis counts them.

    With ``mask``, those where it is not 0; of a masked array, those that are not masked.

    Raises:
        TypeError: for what is no image.
        ValueError: if it is not clear which axis is that of the channels.
    """
    from PIL import Image

    inside: NDArray[np.bool_] | None = None
    automatic = channel_dim is None
    if isinstance(image, Mapping) and {*image} == {"bytes", "path"}:  # as Hugging Face and Parquet keep them
        image = image["bytes"] or str(image["path"])
    if isinstance(image, Image.Image | bytes | str):
        if isinstance(image, str) and not os.path.isfile(image):
            raise TypeError(
                f"an item must begin with an image, got the text {image!r}, which is no file's name"
            )
        if channel_dim is not None:
            raise ValueError(f"channel_dim={channel_dim!r} is for tensors and arrays, not for PIL images")
        picture = standardized(image) if isinstance(image, Image.Image) else read_image(image)
        given = from_numpy(picture.array())
        channel_dim = "gray" if given.ndim == 2 else -1
        inside, left_out, notes = picture.valid(), NO_DATA, picture.notes
    elif isinstance(image, Tensor | np.ndarray):
        given = as_tensor(image)
        if channel_dim is None:
            channel_dim = _channel_axis(given, isinstance(image, np.ndarray), batch)
        left_out, notes = "masked pixels of arrays left out", ()
        if isinstance(image, np.ndarray) or channel_dim not in (int(batch), -3):
            notes = (f"read {_where(channel_dim, given.ndim)}",)
        if isinstance(image, np.ndarray) and np.ma.is_masked(image):
            inside = ~np.ma.getmaskarray(image)
    else:
        raise TypeError(
            f"{'a batch' if batch else 'an item'} must begin with a tensor, an array or a PIL image, "
            f"got {type(image).__name__}"
        )
    x = _nchw(given, channel_dim, batch)
    if automatic and x.shape[1] == 4:
        notes = (*notes, "of four channels: if the last is transparency, leave it out")
    masks = [] if mask is None else [mask]
    if inside is not None:
        masks.append(inside)
        notes = (left_out, *notes)
    valid = [_valid(m, given, channel_dim, batch) for m in masks]
    found = None if not valid else valid[0] if len(valid) == 1 else valid[0] & valid[1]
    return Pixels(x, found, notes)


def _where(channel_dim: ChannelDim, axes: int) -> str:
    if channel_dim == "gray":
        return "as gray"
    return "with channels last" if channel_dim in (-1, axes - 1) else "with channels first"


def joined(pixels: Sequence[Pixels]) -> Pixels:
    """Images of the same size and kind, with the same notes, as one batch."""
    if len(pixels) == 1:
        return pixels[0]
    valid = [p.valid for p in pixels if p.valid is not None]
    return replace(pixels[0], x=torch.cat([p.x for p in pixels]), valid=torch.cat(valid) if valid else None)


def counted(pixels: Pixels) -> Counts:
    """What has been counted of them, with their notes."""
    counts = count_pixels(pixels.x, pixels.valid)
    return replace(counts, notes=dict.fromkeys(pixels.notes, counts.images))


def _valid(mask: Any, x: Tensor, channel_dim: ChannelDim, batch: bool) -> Tensor:
    """(N, H, W): where a mask is not 0, if it has channels in all of them."""
    from PIL import Image

    # Of a picture with a palette these are the numbers of the colours, which stand for classes.
    given = np.array(mask) if isinstance(mask, Image.Image) else mask
    m = as_tensor(given != 0 if isinstance(given, np.ndarray) else given, "mask") != 0
    if isinstance(channel_dim, int):
        axis = channel_dim % x.ndim
        alike = [(*x.shape[:axis], n, *x.shape[axis + 1 :]) for n in (1, x.shape[axis])]
        m = m.unsqueeze(axis) if m.ndim == x.ndim - 1 else m
    else:
        alike = [tuple(x.shape)]
    if tuple(m.shape) not in alike:
        raise ValueError(
            f"mask of shape {tuple(given.shape)} does not fit images of shape {tuple(x.shape)}: it needs the "
            "same shape, without the axis of the channels or with it"
        )
    return _nchw(m, channel_dim, batch).all(dim=1).to(x.device)


def _channel_axis(x: Tensor, array: bool, batch: bool) -> ChannelDim:
    """Where the channels are: the first or the last axis of each image, whichever is a small one.

    If both are, a tensor is (C, H, W). Floats in a tensor may be a network's features, (64, 4, 4), and are
    never taken for (H, W, C).
    """
    shape = tuple(x.shape)
    spatial = len(shape) - batch
    if spatial == 2 and not batch:
        return "gray"
    first, last = (spatial == 3 and shape[d] <= _FEW for d in (int(batch), -1))
    if first and not (array and last):
        return int(batch)
    if last and not first and (array or not x.is_floating_point()):
        return -1
    kind = ("an array" if array else "a tensor") + (" of images" if batch else "")
    guess = " If it is (…, H, W, C), say channel_dim=-1." if last and not first else ""
    raise ValueError(
        f"which axis of {kind} of shape {shape} holds the channels? Say so with channel_dim: {int(batch)} "
        f"for the {'second' if batch else 'first'}, -1 for the last, 'gray' if there is none.{guess}"
    )


def _nchw(x: Tensor, channel_dim: int | Literal["gray"] | None, batch: bool) -> Tensor:
    """(N, C, H, W), where every axis but those of the images and of the channels holds pixels."""
    if isinstance(channel_dim, str):
        if channel_dim != "gray":
            raise ValueError(f"channel_dim must be the number of an axis or 'gray', got {channel_dim!r}")
        x, channel_dim = x[..., None], -1
    if channel_dim is not None:
        if not -x.ndim <= channel_dim < x.ndim:
            raise ValueError(
                f"channel_dim={channel_dim}, but there is no such axis in shape {tuple(x.shape)}"
            )
        if batch and channel_dim % x.ndim == 0:
            raise ValueError(
                f"channel_dim={channel_dim} is the first axis of shape {tuple(x.shape)}, that of the images"
            )
        x = x.movedim(channel_dim, int(batch))
    x = x if batch else x[None]
    while x.ndim < 4:
        x = x.unsqueeze(2)
    # Of a tensor with more axes, the pixels in rows: their order does not matter.
    return x.flatten(2, -2)


def batch_of(batch: Any, channel_dim: ChannelDim, mask: Any = None) -> Pixels:
    """The pixels of what `ChannelStats.update` takes."""
    from PIL import Image

    if isinstance(batch, Image.Image):
        return pixels_of(batch, channel_dim, mask=mask)
    x = as_tensor(batch)
    shape = tuple(x.shape)
    if channel_dim is None:
        if x.ndim not in (3, 4):
            raise ValueError(
                f"batch must be (N, C, H, W) or (C, H, W), got shape {shape}"
                + (
                    "; with more axes, say which one holds the channels with channel_dim="
                    if x.ndim > 4
                    else ""
                )
            )
        pixels = isinstance(batch, np.ndarray) or not x.is_floating_point()  # not a network's features
        if pixels and shape[-1] <= _FEW and shape[-3] > 2 * _FEW:
            raise ValueError(
                f"batch of shape {shape} looks like (N, H, W, C): say so with channel_dim=-1, "
                f"or with channel_dim=-3 that it does have {shape[-3]} channels"
            )
        channel_dim = -3
    return pixels_of(batch, channel_dim, batch=_has_batch_axis(shape, channel_dim), mask=mask)


def as_tensor(batch: Tensor | NDArray[Any], name: str = "batch") -> Tensor:
    """A tensor or array with its axes as they are."""
    if isinstance(batch, Tensor):
        return batch
    if not isinstance(batch, np.ndarray):
        raise TypeError(f"{name} must be a tensor, an array or a PIL image, got {type(batch).__name__}")
    return from_numpy(batch)


def pixels_in_memory(data: Any, channel_dim: ChannelDim, mask: Any = None) -> Pixels | None:
    """The pixels of a tensor, of an array, or of a data set known to hand out ``data.data``."""
    if isinstance(data, Tensor | np.ndarray):
        if data.ndim < 3 and channel_dim is None:
            raise ValueError(
                f"data must be one image or a batch of images, with 3 or 4 axes; got {tuple(data.shape)}"
            )
        return pixels_of(data, channel_dim, batch=_has_batch_axis(data.shape, channel_dim), mask=mask)
    if (
        channel_dim is not None
        or mask is not None
        or any(getattr(data, name, None) is not None for name in ("transform", "transforms"))
    ):
        return None
    source = next(c for c in type(data).__mro__ if "__getitem__" in c.__dict__ or c is object)
    held = getattr(data, "data", None)
    if (source.__module__, source.__name__) not in _HELD or not isinstance(held, Tensor | np.ndarray):
        return None
    return Pixels(_nchw(as_tensor(held), _HELD[source.__module__, source.__name__], batch=True))


def _has_batch_axis(shape: Sequence[int], channel_dim: ChannelDim) -> bool:
    if channel_dim == "gray":
        return len(shape) > 2
    return len(shape) > 3 and channel_dim not in (0, -len(shape))
