"""Normalization in PyTorch, its inverse and its uses.

>>> import torch, normtut
>>> x = torch.rand(4, 3, 8, 8)
>>> mean, std = normtut.moments(x, dim=(0, 2, 3))       # which axes share statistics
>>> z = normtut.normalize(x, mean, std)                 # remove them
>>> bool(torch.allclose(normtut.denormalize(z, mean, std), x, atol=1e-6))   # put them back
True

`normtut.core` holds the idea; the other modules are uses of it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Everything is loaded on first use, by `__getattr__`: `normtut --help` needs no torch, the mathematics no
# torchvision, and homework neither matplotlib nor scikit-image. Type checkers look here.
if TYPE_CHECKING:
    import torch

    from . import core as core
    from . import data as data
    from . import distributed as distributed
    from . import exercises as exercises
    from . import experiments as experiments
    from . import files as files
    from . import functional as functional
    from . import images as images
    from . import layers as layers
    from . import plots as plots
    from . import reparam as reparam
    from . import statistics as statistics
    from . import style as style
    from .core import denormalize, inverse_stats, moments, normalize
    from .images import (
        CIFAR10,
        CIFAR100,
        CLIP,
        HALF,
        IMAGENET,
        MNIST,
        InverseNormalize,
        MeanStd,
        Normalize,
        to_uint8,
    )
    from .statistics import ChannelStats, dataset_stats

__version__ = "0.1.0.dev0"

_SUBMODULES = (
    "core",
    "data",
    "distributed",
    "exercises",
    "experiments",
    "files",
    "functional",
    "images",
    "layers",
    "plots",
    "reparam",
    "statistics",
    "style",
)

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "CLIP",
    "HALF",
    "IMAGENET",
    "MNIST",
    "ChannelStats",
    "InverseNormalize",
    "MeanStd",
    "Normalize",
    "dataset_stats",
    "denormalize",
    "device",
    "inverse_stats",
    "moments",
    "normalize",
    "to_uint8",
]


def device() -> torch.device:
    """The device that the book runs on: CUDA if there is one, else the CPU.

    >>> import torch
    >>> torch.ones(2, device=device()).sum().item()
    2.0
    """
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in __all__:
        for home in ("core", "statistics", "images"):  # images last: it imports torchvision
            module = importlib.import_module(f"{__name__}.{home}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBMODULES, *__all__])
