"""Pictures to work with: photographs, patches and styles that need no network, and CIFAR-10.

>>> from normtut import data
>>> data.photos("cat")["cat"].shape
torch.Size([3, 300, 451])
"""

from .cifar import cifar10
from .photos import PhotoPatches, instance_example, photos, styles

__all__ = ["PhotoPatches", "cifar10", "instance_example", "photos", "styles"]
