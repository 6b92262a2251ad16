"""Pixels to tensors and back: the transform, its inverse, and the constants that everyone uses."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from .core import at_least_float32, check_tensor, denormalize, normalize, numbers

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "CLIP",
    "HALF",
    "IMAGENET",
    "MNIST",
    "InverseNormalize",
    "MeanStd",
    "Normalize",
    "to_uint8",
]


class MeanStd(NamedTuple):
    """Per-channel mean and std of pixels in [0, 1]. Unpack it: ``Normalize(*IMAGENET)``.

    >>> MeanStd((0.5,), (0.25,)).std
    (0.25,)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


#: What models pretrained on ImageNet expect (torchvision, ``transforms/_presets.py``). This std is most
#: likely a mean of per-image stds; the pixel std is reported as about 0.28 (pytorch/vision #1439). Use it all
#: the same with models that were trained with it.
IMAGENET = MeanStd((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

#: Pixel statistics of the 50,000 training images. The widespread std (0.2023, 0.1994, 0.2010) is the mean of
#: per-image stds (`get_mean_and_std` in the `utils.py` of kuangliu/pytorch-cifar).
CIFAR10 = MeanStd((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))

#: Pixel statistics of the 50,000 training images (weiaicunzai/pytorch-cifar100, ``conf/global_settings.py``).
CIFAR100 = MeanStd((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))

#: Pixel statistics of the 60,000 training images (pytorch/examples, ``mnist/main.py``).
MNIST = MeanStd((0.1307,), (0.3081,))

#: What CLIP models expect (openai/CLIP, ``clip/clip.py``).
CLIP = MeanStd((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

#: Not statistics of anything: maps [0, 1] to [−1, 1] (pix2pix, CycleGAN, many diffusion models).
HALF = MeanStd((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class _ChannelAffine(v2.Transform):  # type: ignore[misc]  # torchvision is untyped
    """What `Normalize` and `InverseNormalize` share: the constants, and the refusal of bad input."""

    _transformed_types: ClassVar = (tv_tensors.Image, tv_tensors.Video, v2._utils.is_pure_tensor)

    def __init__(self, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> None:
        super().__init__()
        self.mean, self.std = numbers("mean", mean), numbers("std", std)
        self.inplace = inplace
        if not 0 < len(self.mean) == len(self.std):
            raise ValueError(
                "mean and std must have one value per channel each, "
                f"got {len(self.mean)} and {len(self.std)}: {self.mean}, {self.std}"
            )
        if not all(map(math.isfinite, self.mean)):
            raise ValueError(f"mean must be finite, got {self.mean}")
        if not all(0 < s < math.inf for s in self.std):
            raise ValueError(f"std must be positive and finite, got {self.std}")

    def forward(self, *inputs: Any) -> Any:
        if len(inputs) == 1 and type(inputs[0]) is Tensor:  # the image: nothing has to be looked for
            return self.transform(inputs[0], {})
        return super().forward(*inputs)

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        if any(isinstance(x, PIL.Image.Image) for x in flat_inputs):
            raise TypeError(
                f"{type(self).__name__} needs a float tensor, got a PIL image; put v2.ToImage() and "
                "v2.ToDtype(torch.float32, scale=True) (or ToTensor()) before it"
            )
        # torchvision hands arrays back unchanged. Beside an image tensor, an array may be a label. Alone, or
        # beside boxes and masks (which pass through too), it must be the picture, in the wrong type.
        arrays = [x for x in flat_inputs if isinstance(x, np.ndarray) and x.ndim >= 2]
        if arrays and not v2._utils.has_any(flat_inputs, *self._transformed_types):
            raise TypeError(
                f"{type(self).__name__} needs a float tensor (…, C, H, W), got an array of shape "
                f"{arrays[0].shape}; ToTensor() makes one of an array (H, W, C)"
            )
        # torchvision would normalize the first of several plain tensors, and hand the others back unchanged.
        tensors = [x.shape for x in flat_inputs if v2._utils.is_pure_tensor(x) and self._is_image(x)]
        if len(tensors) > 1 and not v2._utils.has_any(flat_inputs, tv_tensors.Image, tv_tensors.Video):
            raise ValueError(
                f"{type(self).__name__} got {len(tensors)} plain tensors that may be images, of shapes "
                f"{', '.join(str(tuple(shape)) for shape in tensors)}: call it for each, or make images "
                "tv_tensors.Image and masks tv_tensors.Mask"
            )

    def _is_image(self, x: Tensor) -> bool:
        return x.is_floating_point() and x.ndim >= 3 and len(self.mean) in (1, x.shape[-3])

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        if inpt.ndim < 3:
            raise ValueError(
                f"{type(self).__name__} needs an image of shape (…, C, H, W), got {tuple(inpt.shape)}"
                + ("; add the channel with x.unsqueeze(0)" if inpt.ndim == 2 else "")
            )
        typed = isinstance(inpt, tv_tensors.TVTensor)
        x = inpt.as_subclass(Tensor) if typed else inpt  # torch.compile cannot follow as_subclass(Tensor)
        y = self._affine(x)
        if self.inplace:
            y = x.copy_(y)
        return tv_tensors.wrap(y, like=inpt) if typed else y

    # torchvision < 0.21 calls these two by their old, private names.
    _check_inputs = check_inputs
    _transform = transform

    def _affine(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"mean={self.mean}, std={self.std}" + (", inplace=True" if self.inplace else "")


class Normalize(_ChannelAffine):
    r"""Normalize images with constants: :math:`z_c = (x_c - \mu_c)/\sigma_c` for each channel *c*.

    >>> image = torch.rand(3, 32, 32)
    >>> z = Normalize(*IMAGENET)(image)
    >>> bool((Normalize(*IMAGENET).inverse()(z) - image).abs().max() < 1e-6)
    True

    A torchvision v2 transform that stands in for ``torchvision.transforms.v2.Normalize``: shape
    (…, C, H, W), empty batches included; dtype and device are kept; ``Image`` and ``Video`` tv_tensors keep
    their type; masks, boxes, labels and everything else in a nested sample pass through.

    Args:
        mean, std: one number per channel, in units of pixels in [0, 1]: a sequence, or a tensor or array of
            shape (C,) or (1, C, 1, 1), as `normtut.moments` returns it for the axes (0, 2, 3). A single
            number in a sequence, ``(0.5,)``, stands for every channel.
        inplace: overwrite the input instead of allocating a new tensor.

    Raises:
        TypeError: for PIL images, arrays and integer tensors, and for statistics that are not sequences of
            numbers.
        ValueError: for statistics whose lengths differ, a std that is not positive and finite, fewer than
            three axes, another number of channels, several plain tensors of which each may be the image
            (torchvision normalizes the first of them), and a std so small that the result leaves the dtype.
    """

    def _affine(self, x: Tensor) -> Tensor:
        z = normalize(x, self.mean, self.std)
        largest = max(max(abs(m), abs(1 - m)) / s for m, s in zip(self.mean, self.std, strict=True))
        if largest > torch.finfo(x.dtype).max:
            raise ValueError(
                f"std {self.std} is too small for {x.dtype}: pixels in [0, 1] would reach {largest:.3g}, "
                f"beyond its largest number {torch.finfo(x.dtype).max:.3g}"
            )
        return z

    def inverse(self) -> InverseNormalize:
        """The transform that undoes this one."""
        return InverseNormalize(self.mean, self.std, self.inplace)


class InverseNormalize(_ChannelAffine):
    r"""Undo ``Normalize(mean, std)``: :math:`x_c = z_c\,\sigma_c + \mu_c`.

    >>> restore = InverseNormalize(*IMAGENET)
    >>> restore(torch.zeros(3, 1, 1)).flatten()
    tensor([0.4850, 0.4560, 0.4060])

    Give it the *same* mean and std as `Normalize`, not their inverses. Arguments, shapes and errors are
    those of `Normalize`. The result is not clamped: feed it to `to_uint8`, which does that, or clamp it.
    """

    def _affine(self, x: Tensor) -> Tensor:
        return denormalize(x, self.mean, self.std)

    def inverse(self) -> Normalize:
        """The transform that this one undoes."""
        return Normalize(self.mean, self.std, self.inplace)


def to_uint8(x: Tensor) -> Tensor:
    r"""Pixels in [0, 1] to the 256 levels of an 8-bit image: clamp, multiply by 255, round, cast.

    >>> to_uint8(torch.tensor([-0.1, 0.0, 0.5, 0.9999, 1.0, float("nan")]))
    tensor([  0,   0, 128, 255, 255,   0], dtype=torch.uint8)

    Rounding, not truncation: ``x.mul(255).byte()`` is one level too dark wherever a float fell just short of
    its level (pytorch/vision #8141). Any shape and floating dtype; uint8 is returned as it is. NaN, which has
    no level, becomes 0; ±inf are clamped. An ``Image`` or ``Video`` tv_tensor keeps its type.

    Raises:
        TypeError: for other integer tensors and bools, whose range is not known, and for anything else.
    """
    if check_tensor("x", x).dtype == torch.uint8:
        return x
    if not x.is_floating_point():
        raise TypeError(
            f"x must be floating point in [0, 1], or uint8; got {x.dtype} of shape {tuple(x.shape)}"
        )
    typed = isinstance(x, tv_tensors.TVTensor)
    pixels = x.as_subclass(Tensor) if typed else x  # torch.compile cannot follow as_subclass(Tensor)
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        # Compilers make one loop of this, and vectorize it, unlike nan_to_num. NaN is not > 0.
        scaled = at_least_float32(pixels) * 255 + 0.5
        levels = torch.where(pixels > 0, scaled, 0.0).clamp(max=255).to(torch.uint8)
    elif pixels.numel() <= _FEW or pixels.device.type != "cpu":
        levels = _levels(pixels).byte()
    else:
        levels = torch.empty_like(pixels, dtype=torch.uint8)
        for some, result in _pieces(pixels, levels):
            # To int16 and then to uint8, torch is twice as fast as to uint8 at once.
            result.copy_(_levels(some).short())
    return tv_tensors.wrap(levels, like=x) if typed else levels


#: So few pixels take no time: only the number of steps counts.
_FEW = 4096

#: Pixels to convert at once, per thread, or about as many. What `_levels` makes on its way then stays in the
#: cache of a processor core, which is three times as fast as writing it to memory and reading it back.
_PIECE = 2**17

_HALF = torch.tensor(0.5, device="cpu")


def _levels(x: Tensor) -> Tensor:
    """255 x + ½ from 0 to 255, of which a cast leaves the nearest level."""
    # In half precision the product itself would be rounded, to 8 or 11 bits, before it is rounded to a level.
    scaled = torch.add(_HALF, at_least_float32(x), alpha=255).nan_to_num_()
    return torch.nn.functional.hardtanh_(scaled, 0.0, 255.0)  # a clamp_ that torch.vmap knows


def _pieces(x: Tensor, y: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """In the order of memory; one piece where x is small, or its elements have gaps between them."""
    pieces = round(x.numel() / (_PIECE * torch.get_num_threads()))
    if pieces > 1:
        order = sorted(range(x.ndim), key=x.stride, reverse=True)
        x, y = x.permute(order), y.permute(order)
        if x.is_contiguous():
            return zip(*(t.view(-1).chunk(pieces) for t in (x, y)), strict=True)
    return [(x, y)]
