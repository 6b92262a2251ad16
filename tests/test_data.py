import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import normtut
from normtut import data


def test_photos_are_real_pictures():
    pictures = data.photos()
    assert len(pictures) == 11
    for name, x in pictures.items():
        assert x.dtype == torch.uint8
        assert x.shape[0] == 3
        assert min(x.shape[1:]) >= 300
        assert len(x.unique()) > 100, name
    gray = {n for n, x in pictures.items() if torch.equal(x[0], x[1]) and torch.equal(x[0], x[2])}
    assert gray == {"brick", "grass", "gravel"}


def test_photos_are_yours_to_change():
    data.photos("cat")["cat"].zero_()
    assert data.photos("cat")["cat"].any()


def test_an_unknown_photo_names_the_known_ones():
    with pytest.raises(KeyError, match=r"'dog'.*astronaut"):
        data.photos("cat", "dog")


@pytest.mark.parametrize("known", [data.photos, data.styles])
def test_names_are_given_one_by_one(known):
    with pytest.raises(TypeError, match=r"one by one.*got \['brick'\]"):
        known(["brick"])


@pytest.mark.parametrize("size", [16, 32, 64])
def test_patches_are_cut_from_their_photo_and_none_is_in_both_parts(size):
    train, test = data.PhotoPatches(True, size), data.PhotoPatches(False, size)
    seen = set()
    for part in (train, test):
        assert part.data.shape == (len(part.targets), size, size, 3)
        for patch, label in zip(part.data[::37], part.targets[::37], strict=True):
            photo = data.photos(part.classes[label])[part.classes[label]].permute(1, 2, 0).numpy()
            rows, cols = photo.shape[0] // size, photo.shape[1] // size
            places = [
                (r, c)
                for r in range(rows)
                for c in range(cols)
                if np.array_equal(photo[r * size : (r + 1) * size, c * size : (c + 1) * size], patch)
            ]
            assert places
            if len(places) == 1:
                assert (label, places[0]) not in seen
                seen.add((label, places[0]))
    everything = np.concatenate([train.data, test.data])
    assert len(train) == pytest.approx(4 * len(test), rel=0.1)
    assert set(train.targets) == set(test.targets) == set(range(11))
    # Black sky and blown-out walls do repeat; apart from those, no patch stands twice.
    flat = everything.reshape(len(everything), -1)
    textured = flat[flat.std(1) > 5]
    assert len(np.unique(textured, axis=0)) == len(textured)


def test_items_are_those_of_cifar10():
    patches = data.PhotoPatches(train=False, transform=lambda image: (image.mode, image.size))
    assert patches[0] == (("RGB", (32, 32)), 0)
    with pytest.raises(IndexError):
        patches[len(patches)]


@pytest.mark.parametrize("train", ["train", "test", 0, None])
def test_only_a_bool_tells_the_parts_apart(train):
    with pytest.raises(TypeError, match=f"train must be True .* got {train!r}"):
        data.PhotoPatches(train)
    assert len(data.PhotoPatches(np.bool_(False))) == 285


@pytest.mark.parametrize("size", [0, -1, 301])
def test_patch_sizes_that_do_not_fit_are_refused(size):
    with pytest.raises(ValueError, match=f"size must be between 1 and 300 pixels, got {size}"):
        data.PhotoPatches(size=size)


def test_device():
    assert normtut.device().type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_import_is_light():
    code = (
        "import sys, normtut; print(sorted({'matplotlib', 'skimage', 'scipy', 'IPython'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True
    )
    assert run.stdout.strip() == "[]"


def test_unknown_attributes_are_named():
    with pytest.raises(AttributeError, match="no attribute 'batchnorm'"):
        normtut.batchnorm  # noqa: B018
    assert "plots" in dir(normtut)
