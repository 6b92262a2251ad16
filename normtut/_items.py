"""Finding the images in what data sets and loaders give, and which of their axes are the channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .core import from_numpy

if TYPE_CHECKING:
    from PIL.Image import Image


def image_of(item: Any) -> Any:
    """The image of an item or batch, which may come with a label."""
    if isinstance(item, tuple | list) and item:
        return item[0]
    if isinstance(item, Mapping):
        for key in ("image", "img", "pixel_values"):
            if key in item:
                return item[key]
        raise TypeError(
            f"no image in an item with the keys {list(item)}; expected image, img or pixel_values"
        )
    return item


def all_images(batch: Any) -> bool:
    """Whether a batch is a list of nothing but images."""
    from PIL import Image

    if not isinstance(batch, tuple | list):
        return False
    others = [x for x in batch if not isinstance(x, Image.Image)]
    axes = {x.ndim if isinstance(x, Tensor | np.ndarray) else 0 for x in others}
    # Images (N, H, W) with soft labels (N, K) are none: they differ in their numbers of axes.
    return len(batch) > 0 and (axes <= {2} or axes <= {3})


def chw(image: Any) -> Tensor:
    """One image of a data set as a tensor (C, H, W)."""
    if not isinstance(image, Tensor | np.ndarray):
        from PIL import Image

        from .folders import to_array

        if not isinstance(image, Image.Image):
            raise TypeError(
                f"an item must begin with a tensor, an array or a PIL image, got {type(image).__name__}"
            )
        image = to_array(image)
    x = as_tensor(image)
    if x.ndim not in (2, 3):
        raise ValueError(f"an image must have 2 or 3 axes, got shape {tuple(x.shape)}")
    if x.ndim == 2:
        return x[None]
    if isinstance(image, Tensor):
        if channels_last(x.shape):
            raise ValueError(f"a tensor of shape {tuple(x.shape)} looks like (H, W, C): make it (C, H, W)")
        return x
    if channels_last(x.shape[::-1]):
        raise ValueError(f"an array of shape {tuple(x.shape)} looks like (C, H, W): make it (H, W, C)")
    return x.permute(2, 0, 1)


def as_tensor(batch: Tensor | NDArray[Any] | Image) -> Tensor:
    """A PIL image as (C, H, W), anything else with its axes as they are."""
    from PIL import Image

    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, Image.Image):
        return chw(batch)
    if not isinstance(batch, np.ndarray):
        raise TypeError(f"batch must be a tensor, an array or a PIL image, got {type(batch).__name__}")
    return from_numpy(batch)


def channels_last(shape: Sequence[int]) -> bool:
    """Whether what should be (…, C, H, W) looks like (…, H, W, C)."""
    return shape[-1] <= 4 and shape[-3] > 8


def pixels_in_memory(data: Any, channel_dim: int | None) -> Tensor | None:
    """(N, C, H, W) pixels of a tensor, an array, or a data set that is a thin wrapper around one."""
    if isinstance(data, Tensor | np.ndarray):
        return _nchw(data, channel_dim)
    held = getattr(data, "data", None)
    if not isinstance(held, Tensor | np.ndarray) or str(held.dtype).removeprefix("torch.") != "uint8":
        return None
    if any(getattr(data, name, None) is not None for name in ("transform", "transforms")):
        return None
    # SVHN holds N × C × H × W, CIFAR N × H × W × C, MNIST N × H × W. The items say which; and whether they
    # are these pixels at all.
    x = as_tensor(held)
    if len(data) != len(x) or not len(x) or x.ndim not in (3, 4):
        return None
    layouts = [x[:, None]] if x.ndim == 3 else [x.permute(0, 3, 1, 2), x]
    for pixels in layouts:
        if all(_same(pixels[i], data[i]) for i in (0, len(x) // 2, len(x) - 1)):
            return pixels
    return None


def _same(pixels: Tensor, item: Any) -> bool:
    try:
        return torch.equal(pixels, chw(image_of(item)))
    except (TypeError, ValueError):
        return False


def _nchw(data: Tensor | NDArray[Any], channel_dim: int | None) -> Tensor:
    x = as_tensor(data)
    if x.ndim not in (3, 4):
        raise ValueError(
            f"data must be one image or a batch of images, with 3 or 4 axes; got {tuple(x.shape)}"
        )
    if channel_dim is None:
        likely = [d for d in (-3, -1) if x.shape[d] <= 4]
        if isinstance(data, Tensor) and (-3 in likely or (not likely and x.ndim == 4)):
            channel_dim = -3
        elif isinstance(data, np.ndarray) and len(likely) == 1:
            channel_dim = likely[0]
        else:
            raise ValueError(
                f"which axis of shape {tuple(x.shape)} holds the channels? Say so: channel_dim=-3 for "
                "(N, C, H, W), channel_dim=-1 for (N, H, W, C); gray (N, H, W) needs an axis more"
            )
    x = x.movedim(channel_dim, -3)
    return x if x.ndim == 4 else x[None]
