"""Numbers on CIFAR-10 as a tutorial of 2022 printed them: chapter 3 derives all of its tables from the first.

The tutorial runs training and test set through four pipelines and prints minimum, maximum, mean and "std" of
each channel; its std is that of the images' stds.
"""

from __future__ import annotations

from normtut.images import HALF, IMAGENET

__all__ = ["CONSTANTS", "PRINTED", "RAW"]

#: Mean and "std" by channel after ``ToTensor`` alone: its first table. Minimum and maximum are 0 and 1.
RAW = {
    "train": ((0.49139965, 0.48215845, 0.4465309), (0.060528398, 0.061124973, 0.06764512)),
    "test": ((0.49421427, 0.48513138, 0.45040908), (0.06047972, 0.06123986, 0.06758436)),
}

#: What the three other pipelines subtract and divide by; "own" is what the tutorial computed from the set.
CONSTANTS = {
    "0.5": HALF,
    "ImageNet": IMAGENET,
    "own": (RAW["train"][0], (0.20220213, 0.19931543, 0.20086348)),
}

# fmt: off
#: ``{(pipeline, part): minima, maxima, means and stds}``, three channels each: 72 numbers.
PRINTED = {
    ("0.5", "train"): (-1, -1, -1, 1, 1, 1,
        -0.017200625, -0.035683163, -0.10693816, 0.121056795, 0.122249946, 0.13529024),
    ("0.5", "test"): (-1, -1, -1, 1, 1, 1,
        -0.011571422, -0.029737204, -0.0991818, 0.12095944, 0.12247972, 0.13516872),
    ("ImageNet", "train"): (-2.117904, -2.0357141, -1.8044444, 2.2489083, 2.4285715, 2.64,
        0.027946174, 0.116778664, 0.1801375, 0.2643161, 0.27287933, 0.30064496),
    ("ImageNet", "test"): (-2.117904, -2.0357141, -1.8044444, 2.2489083, 2.4285715, 2.64,
        0.04023701, 0.1300509, 0.19737385, 0.26410356, 0.27339223, 0.30037493),
    ("own", "train"): (-2.4302397, -2.4190724, -2.2230568, 2.5153067, 2.598101, 2.7554488,
        2.0912171e-07, -1.5499116e-07, 8.5353854e-08, 0.299346, 0.30667457, 0.3367716),
    ("own", "test"): (-2.4302397, -2.4190724, -2.2230568, 2.5153067, 2.598101, 2.7554488,
        0.01391995, 0.014915802, 0.019307619, 0.29910526, 0.307251, 0.33646908),
}
# fmt: on
