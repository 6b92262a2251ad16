"""Finding the image in what data sets and loaders give, and which of its axes are the channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..core import from_numpy
from ..files import standardized

__all__ = ["ChannelDim", "Pixels", "batch_of", "chosen", "is_image", "pixels_in_memory", "pixels_of"]

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
    """Pixels (N, C, H, W) of N images, and what had to be decided to find them."""

    x: Tensor
    notes: tuple[str, ...] = ()


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
    """Whether something is a single image: a PIL image, or a tensor or array with two or three axes."""
    from PIL import Image

    return isinstance(value, Image.Image) or (isinstance(value, Tensor | np.ndarray) and value.ndim in (2, 3))


def pixels_of(image: Any, channel_dim: ChannelDim = None, *, batch: bool = False) -> Pixels:
    """The pixels of one image of a data set, or of a batch of images, whose first axis counts them.

    Raises:
        TypeError: for what is no image.
        ValueError: if it is not clear which axis is that of the channels.
    """
    from PIL import Image

    if isinstance(image, Image.Image):
        if channel_dim is not None:
            raise ValueError(f"channel_dim={channel_dim!r} is for tensors and arrays, not for PIL images")
        picture = standardized(image)
        x = from_numpy(picture.array())
        return Pixels((x if x.ndim == 3 else x[..., None]).permute(2, 0, 1)[None], picture.notes)
    if not isinstance(image, Tensor | np.ndarray):
        raise TypeError(
            f"{'a batch' if batch else 'an item'} must begin with a tensor, an array or a PIL image, "
            f"got {type(image).__name__}"
        )
    array = isinstance(image, np.ndarray)
    if channel_dim is None:
        channel_dim = _channel_axis(tuple(image.shape), array, batch)
    x = _nchw(as_tensor(image), channel_dim, batch)
    if not array:
        return Pixels(x)
    where = (
        "gray"
        if channel_dim == "gray"
        else "with channels " + ("last" if channel_dim in (-1, image.ndim - 1) else "first")
    )
    return Pixels(x, (f"read as arrays {where}",))


def _channel_axis(shape: tuple[int, ...], array: bool, batch: bool) -> ChannelDim:
    """Where the channels are. Tensors are (C, H, W); of arrays, the first or the last axis is a small one."""
    spatial = len(shape) - batch
    if spatial == 2 and not batch:
        return "gray"
    first, last = (spatial == 3 and shape[d] <= _FEW for d in (int(batch), -1))
    if first and not (array and last):
        return int(batch)
    if array and last and not first:
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
    return x if x.ndim == 4 else x.flatten(2, -2)


def batch_of(batch: Any, channel_dim: ChannelDim) -> Tensor:
    """(N, C, H, W) of what `ChannelStats.update` takes."""
    from PIL import Image

    if isinstance(batch, Image.Image):
        return pixels_of(batch, channel_dim).x
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
        pixels = isinstance(batch, np.ndarray) or not x.is_floating_point()  # and no features of a network
        if pixels and shape[-1] <= _FEW and shape[-3] > 2 * _FEW:
            raise ValueError(
                f"batch of shape {shape} looks like (N, H, W, C): say so with channel_dim=-1, "
                f"or with channel_dim=-3 that it does have {shape[-3]} channels"
            )
        channel_dim = -3
    return _nchw(x, channel_dim, batch=_has_batch_axis(shape, channel_dim))


def as_tensor(batch: Tensor | NDArray[Any]) -> Tensor:
    """A tensor or array with its axes as they are."""
    if isinstance(batch, Tensor):
        return batch
    if not isinstance(batch, np.ndarray):
        raise TypeError(f"batch must be a tensor, an array or a PIL image, got {type(batch).__name__}")
    return from_numpy(batch)


def pixels_in_memory(data: Any, channel_dim: ChannelDim) -> Pixels | None:
    """The pixels of a tensor, of an array, or or of a data set known to hand out ``data.data``."""
    if isinstance(data, Tensor | np.ndarray):
        if data.ndim < 3 and channel_dim is None:
            raise ValueError(
                f"data must be one image or a batch of images, with 3 or 4 axes; got {tuple(data.shape)}"
            )
        return pixels_of(data, channel_dim, batch=_has_batch_axis(data.shape, channel_dim))
    if channel_dim is not None or any(
        getattr(data, name, None) is not None for name in ("transform", "transforms")
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
