"""Style transfer with AdaIN: the network, its losses, its training, its weights.

`StyleTransfer.pretrained` paints, ``normtut stylize`` paints from a shell, and ``python -m
normtut.style.train`` trains.
"""

from __future__ import annotations

from normtut.style.losses import Teacher, content_distance, style_distance
from normtut.style.network import StyleNetwork
from normtut.style.transfer import StyleTransfer

__all__ = ["StyleNetwork", "StyleTransfer", "Teacher", "content_distance", "style_distance"]
