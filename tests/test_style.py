"""The style network, its losses, its training and its command."""

import argparse
import dataclasses
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from normtut import data, moments
from normtut.cli import main
from normtut.cli import stylize as cli
from normtut.functional import adain
from normtut.style import StyleNetwork, StyleTransfer, Teacher, content_distance, style_distance, train
from normtut.style.losses import Look, _hue_distance, color_distance
from normtut.style.network import EPS, soften, statistics
from normtut.style.transfer import _GRID, _REACH, WEIGHTS, _shrink, _tiles

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model() -> StyleTransfer:
    return StyleTransfer.pretrained()


def photo(name: str = "cat", size: int = 96) -> Tensor:
    x = data.photos(name)[name][None] / 255
    return torch.nn.functional.interpolate(x, size=(size, size), mode="bilinear", antialias=True).clamp(0, 1)


def style(name: str = "strokes") -> Tensor:
    return data.styles(name)[name][None] / 255


# ---- the network


def test_the_core_is_adain_of_what_the_encoder_sees() -> None:
    """What enters the decoder's first convolution, by the function of chapter 11."""
    network = StyleNetwork()
    content, like = torch.rand(2, 3, 40, 36), torch.rand(2, 3, 24, 48)
    entering: list[Tensor] = []
    network.decoder.deep.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    network(content, like)
    expected = adain(network.encoder(content)[-1], network.encoder(like)[-1], eps=EPS)
    torch.testing.assert_close(entering[0], expected.relu(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_statistics_are_measured_and_put_back_at_every_depth(offset: float) -> None:
    network = StyleNetwork()
    like = torch.rand(1, 3, 64, 64)
    features = network.encoder(like)
    wanted = statistics(features)
    for x, (mean, std) in zip(features, wanted, strict=True):
        torch.testing.assert_close((mean, std), moments(x, (2, 3), eps=EPS))
    seen: list[tuple[Tensor, Tensor]] = []
    content = torch.rand(1, 3, 96, 72) + offset
    network.decoder(network.encoder(content), wanted, (96, 72), seen=seen)
    assert [mean.shape for mean, _ in seen] == [mean.shape for mean, _ in reversed(wanted)]
    torch.testing.assert_close(seen[0], moments(network.encoder(content)[-1], (2, 3), eps=EPS))


@pytest.mark.parametrize("depth", range(5))
@pytest.mark.parametrize("which", [0, 1])
def test_every_statistic_of_the_style_counts(depth: int, which: int) -> None:
    network, content = StyleNetwork(), torch.rand(1, 3, 32, 32)
    style = statistics(network.encoder(torch.rand(1, 3, 32, 32)))
    features = network.encoder(content)
    painted = network.decoder(features, style, (32, 32))
    pair = list(style[depth])
    pair[which] = pair[which] + 1
    style[depth] = (pair[0], pair[1])
    assert (network.decoder(features, style, (32, 32)) - painted).abs().mean() > 1e-3


def test_contrast_and_tint_of_the_content_do_not_count() -> None:
    """What AdaIN removes at the first depth is gone: the encoder's deepest map may be rescaled at will."""
    network, content = StyleNetwork(), torch.rand(1, 3, 64, 64)
    style = statistics(network.encoder(torch.rand(1, 3, 32, 32)))
    *others, deeper = network.encoder(content)
    gain, offset = torch.rand(1, 128, 1, 1) * 20 + 20, torch.randn(1, 128, 1, 1) * 20
    painted = [network.decoder([*others, x], style, (64, 64)) for x in (deeper * 20, deeper * gain + offset)]
    torch.testing.assert_close(*painted, rtol=0, atol=0.02)  # not exact: EPS


def test_what_was_seen_can_be_given() -> None:
    network = StyleNetwork()
    features = network.encoder(torch.rand(1, 3, 40, 36))
    style = statistics(network.encoder(torch.rand(1, 3, 32, 32)))
    seen: list[tuple[Tensor, Tensor]] = []
    painted = network.decoder(features, style, (40, 36), seen=seen)
    again = network.decoder(features, style, (40, 36), given=seen)
    torch.testing.assert_close(again, painted, rtol=1e-4, atol=1e-5)
    other = [(mean + 1, std) for mean, std in seen]
    assert (network.decoder(features, style, (40, 36), given=other) - painted).abs().mean() > 0.01


def test_gradients_reach_every_parameter() -> None:
    network = StyleNetwork()
    network(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)).square().mean().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().max() > 1e-7, name  # no bias that a norm removes (chapter 13)


def test_constant_images_have_finite_gradients() -> None:
    """sqrt(var) without eps would answer NaN here."""
    content = torch.full((1, 3, 32, 32), 0.5, requires_grad=True)
    StyleNetwork()(content, torch.zeros(1, 3, 32, 32)).sum().backward()
    assert content.grad is not None
    assert content.grad.isfinite().all()


def test_how_far_a_pixel_sees() -> None:
    """Tiles overlap by _REACH; a pixel that saw farther would paint a seam."""
    network, n = StyleNetwork().double().eval(), 2 * _REACH + 64
    content = torch.rand(1, 3, n, n, dtype=torch.float64)
    style = statistics(network.encoder(torch.rand(1, 3, 32, 32, dtype=torch.float64)))
    seen: list[tuple[Tensor, Tensor]] = []
    far = 0
    with torch.no_grad():
        network.decoder(network.encoder(content), style, (n, n), seen=seen)
        painted = network.decoder(network.encoder(content), style, (n, n), given=seen)
        for column in range(n // 2, n // 2 + _GRID, 2):
            changed = content.clone()
            changed[..., column] += 0.3
            other = network.decoder(network.encoder(changed), style, (n, n), given=seen)
            columns = (other - painted).abs().amax((0, 1, 2)).gt(1e-12).nonzero()
            far = max(far, int((columns - column).abs().max()))
    assert _REACH - _GRID < far <= _REACH


# ---- stylize


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 9), (2, 3), (7, 64), (63, 65), (97, 130)])
def test_any_size(model: StyleTransfer, h: int, w: int) -> None:
    content = torch.rand(1, 3, h, w)
    painted = model.stylize(content, torch.rand(1, 3, max(1, w - 2), h))
    assert painted.shape == content.shape
    assert painted.isfinite().all()
    assert 0 <= painted.min() <= painted.max() <= 1


def test_a_batch_is_its_pictures(model: StyleTransfer) -> None:
    contents = torch.cat([photo("cat"), photo("coffee")])
    styles = torch.cat([style("waves"), style("mosaic")])
    together = model.stylize(contents, styles)
    for i in range(2):
        alone = model.stylize(contents[i : i + 1], styles[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-4)
    one_style = model.stylize(contents, style("waves"))
    torch.testing.assert_close(one_style[:1], together[:1], rtol=0, atol=1e-4)
    assert model.stylize(torch.empty(0, 3, 8, 8), style()).shape == (0, 3, 8, 8)


def test_the_style_is_painted(model: StyleTransfer) -> None:
    """Channel statistics of the picture move to those of the style, far from where the content's were."""
    content = photo("astronaut", 192)
    for name in ("strokes", "mosaic", "waves"):
        like = style(name)
        picture = model.stylize(content, like)
        wanted, had, got = (torch.cat(moments(x, (2, 3))).flatten() for x in (like, content, picture))
        assert (got - wanted).norm() < 0.5 * (had - wanted).norm(), name


def test_alpha_goes_from_the_content_to_the_style(model: StyleTransfer) -> None:
    content, like = photo(size=128), style("mosaic")
    pictures = [model.stylize(content, like, a) for a in (0.0, 0.25, 0.5, 0.75, 1.0)]
    away = [(p - content).square().mean().sqrt().item() for p in pictures]
    assert away == sorted(away)
    assert away[0] < 0.14  # approximately the content: the model card says how nearly
    assert away[-1] > 2 * away[0]
    # At 0, the style does not count; and a content in its own style is the same thing.
    torch.testing.assert_close(model.stylize(content, style("waves"), 0.0), pictures[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(model.stylize(content, content), pictures[0], rtol=0, atol=1e-4)


def test_several_styles(model: StyleTransfer) -> None:
    content, a, b = photo(), style("strokes"), style("mosaic")
    only_a = model.stylize(content, a)
    torch.testing.assert_close(model.stylize(content, [a, b], weights=[2, 0]), only_a, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.stylize(content, [a, a]), only_a, rtol=0, atol=1e-5)
    both = model.stylize(content, [a, b])
    for same in (1e308, 5e-324):  # whose sum is infinite, and whose half is 0
        torch.testing.assert_close(model.stylize(content, [a, b], weights=[same, same]), both)
    torch.testing.assert_close(both, model.stylize(content, [b, a], weights=[0.1, 0.1]), rtol=0, atol=1e-5)
    halfway = model.stylize(content, [a, a], 0.5)  # to each of them by a quarter
    torch.testing.assert_close(halfway, model.stylize(content, a, 0.5), rtol=0, atol=1e-5)
    assert (both - only_a).abs().mean() > 0.01
    assert (both - model.stylize(content, b)).abs().mean() > 0.01


def test_preserved_colour(model: StyleTransfer) -> None:
    content, like = photo("coffee"), style("waves")
    kept = model.stylize(content, like, preserve_color=True)
    assert kept.min() == 0
    assert kept.max() == 1  # where the painting is lighter than the hue allows
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    hue = content - (content * luma).sum(1, keepdim=True)
    got = kept - (kept * luma).sum(1, keepdim=True)
    unclipped = ((kept > 0) & (kept < 1)).all(1, keepdim=True).expand_as(kept)
    assert unclipped.float().mean() > 0.5
    torch.testing.assert_close(got[unclipped], hue[unclipped], rtol=0, atol=1e-5)
    painted = model.stylize(content, like)
    lightness = [(x * luma).sum(1, keepdim=True).expand_as(x)[unclipped] for x in (kept, painted)]
    torch.testing.assert_close(*lightness, rtol=0, atol=1e-5)


def test_colour_is_preserved_in_each_of_a_batch(model: StyleTransfer) -> None:
    contents = torch.cat([photo("cat", 32), photo("coffee", 32)])
    each = [model.stylize(content[None], style("waves"), preserve_color=True) for content in contents]
    both = model.stylize(contents, style("waves"), preserve_color=True)
    torch.testing.assert_close(both, torch.cat(each), rtol=0, atol=1e-4)


@pytest.mark.parametrize("max_pixels", [256**2, 69_000, 80_000])  # tiles of 80, 86 → 80 and 106 → 104 pixels
@pytest.mark.parametrize(("h", "w"), [(300, 513), (640, 255)])
def test_tiles_have_no_seams(model: StyleTransfer, h: int, w: int, max_pixels: int) -> None:
    """The tiles of a large picture equal the picture painted whole with the same statistics."""
    torch.manual_seed(1)
    content = torch.nn.functional.interpolate(torch.rand(1, 3, 20, 30), size=(h, w), mode="bicubic").clamp(
        0, 1
    )
    like = style("mosaic")
    tiled = model.stylize(content, like, max_pixels=max_pixels)

    def shrink(x: Tensor) -> Tensor:
        scale = (max_pixels / (x.shape[2] * x.shape[3])) ** 0.5
        size = [int(n * scale) for n in x.shape[2:]]
        return torch.nn.functional.interpolate(x, size=size, mode="bilinear", antialias=True).clamp(0, 1)

    network, seen = model.network, []
    with torch.inference_mode():
        wanted = statistics(network.encoder(shrink(like)))
        small = shrink(content)
        network.decoder(network.encoder(small), wanted, small.shape[-2:], seen=seen)
        whole = network.decoder(network.encoder(content), wanted, (h, w), given=seen).clamp(0, 1)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=2e-4)
    # And it resembles what the statistics of the picture at its own size give.
    own = model.stylize(content, like)
    assert (tiled - own).abs().mean() < 0.2


@pytest.mark.parametrize("max_pixels", [256**2, 69_000, 200_000])
def test_tiles_cover_the_picture_once_and_see_no_more_than_allowed(max_pixels: int) -> None:
    painted = torch.zeros(700, 1003)
    for inner, outer, cut in _tiles(*painted.shape, max_pixels):
        (top, bottom), (left, right) = ((s.start, s.stop) for s in outer)
        assert (bottom - top) * (right - left) <= max_pixels
        assert top % _GRID == left % _GRID == 0
        painted[inner[0], inner[1]] += 1
        assert cut == [slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True)]
        for i, o, n in zip(inner, outer, painted.shape, strict=True):
            assert o.start == max(0, i.start - _REACH)
            assert o.stop == min(n, i.stop + _REACH)
    assert (painted == 1).all()


def test_what_is_too_large_is_reduced_to_the_limit_and_stays_a_picture() -> None:
    just = torch.rand(1, 3, 256, 256)
    assert _shrink(just, 256**2) is just
    white = _shrink(torch.ones(1, 3, 300, 299), 256**2)  # of which some sums are above 1 by a rounding
    assert white.max() == 1
    assert white.shape == (1, 3, 256, 255)
    assert _shrink(torch.rand(1, 3, 1, 70_000), 256**2).shape == (1, 3, 1, 67_731)  # no row is lost


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_flat_contents_are_not_painted_with_rounding_noise(model: StyleTransfer, level: float) -> None:
    """Nothing in a flat picture varies but the last bits, and these must not be made a texture."""
    content = torch.full((1, 3, 4, 33), level)
    alone = model.stylize(content, style())
    together = model.stylize(torch.cat([content, torch.rand(1, 3, 4, 33)]), style())
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=0.01)


def test_dtype_device_and_memory_are_the_callers(model: StyleTransfer) -> None:
    content, like = photo(size=48).double(), style().double()
    before = content.clone()
    painted = model.stylize(content, like)
    assert painted.dtype == torch.float64
    assert painted.is_contiguous()
    assert torch.equal(content, before)
    assert not painted.requires_grad
    half = model.stylize(content.bfloat16(), like.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half - painted).abs().mean() < 0.02
    flipped = content.flip(3).transpose(2, 3)
    torch.testing.assert_close(model.stylize(flipped, like), model.stylize(flipped.contiguous(), like))


def test_twice_the_same(model: StyleTransfer) -> None:
    once = model.stylize(photo(), style())
    assert torch.equal(model.stylize(photo(), style(), 1.0, preserve_color=False), once)  # as by default


GOOD = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"content": (GOOD * 255).byte()}, TypeError, "content must be floating point.*uint8.*divide"),
        ({"content": np.zeros((1, 3, 4, 4))}, TypeError, "content must be a tensor, got ndarray"),
        ({"content": GOOD[0]}, ValueError, r"content must have shape \(N, 3, H, W\), got \(3, 16, 16\)"),
        ({"style": GOOD[:, :1]}, ValueError, r"style must have shape \(N, 3, H, W\), got \(2, 1, 16, 16\)"),
        ({"style": GOOD[..., :0]}, ValueError, r"style must have shape"),
        ({"style": GOOD[:, :, :0]}, ValueError, r"style must have shape"),
        ({"content": GOOD * 2 - 1}, ValueError, r"content must have values in \[0, 1\], got -"),
        ({"content": GOOD.clone().fill_(float("nan"))}, ValueError, r"content must have values in \[0, 1\]"),
        ({"style": GOOD * 1.5}, ValueError, r"style must have values in \[0, 1\]"),
        ({"style": GOOD * 255}, ValueError, r"style must have values in \[0, 1\]"),
        ({"style": GOOD[:0]}, ValueError, "style must hold 1 image or as many as content, 2; got 0"),
        ({"style": torch.cat([GOOD, GOOD[:1]])}, ValueError, "got 3"),
        ({"style": []}, ValueError, "at least one image"),
        ({"style": [GOOD, GOOD[0]]}, ValueError, "style must have shape"),
        ({"alpha": 1.5}, ValueError, "alpha must be between 0 and 1, got 1.5"),
        ({"alpha": -0.1}, ValueError, "alpha must be between 0 and 1, got -0.1"),
        ({"alpha": float("nan")}, ValueError, "alpha must be between 0 and 1, got nan"),
        ({"weights": [1, 2]}, ValueError, "weights must be as many as styles, 1; got 2"),
        ({"weights": [-1]}, ValueError, "weights must be >= 0"),
        ({"style": [GOOD, GOOD], "weights": [2, -0.5]}, ValueError, "weights must be >= 0"),
        ({"weights": [0.0]}, ValueError, "not all 0"),
        ({"weights": [float("inf")]}, ValueError, r"finite and not all 0, got \[inf\]"),
        ({"weights": [float("nan")]}, ValueError, r"finite and not all 0, got \[nan\]"),
        ({"max_pixels": 65535}, ValueError, "max_pixels must be at least 65536, got 65535"),
    ],
)
def test_bad_input(model: StyleTransfer, change: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        model.stylize(**{"content": GOOD, "style": GOOD, **change})


def test_weights(tmp_path: Path) -> None:
    assert WEIGHTS.stat().st_size <= 5e6
    card = WEIGHTS.with_name("MODEL_CARD.md").read_text()
    for word in ("PACS", "BSDS500", "Limits", "License"):
        assert word in card
    with pytest.raises(FileNotFoundError, match="no weights at"):
        StyleTransfer.pretrained(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(WEIGHTS.read_bytes()[:1000])
    with pytest.raises(ValueError, match="does not hold the weights"):
        StyleTransfer.pretrained(tmp_path / "cut.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="does not hold the weights"):
        StyleTransfer.pretrained(tmp_path / "other.safetensors")


# ---- styles


def test_styles() -> None:
    pictures = data.styles()
    assert len(pictures) >= 6
    for name, picture in pictures.items():
        assert picture.dtype == torch.uint8, name
        assert picture.shape[0] == 3, name
        assert min(picture.shape[1:]) >= 300, name
        assert picture.float().std() > 20, name
    small = [
        torch.nn.functional.interpolate(p[None].float(), size=(64, 64), mode="area")
        for p in pictures.values()
    ]
    for i, a in enumerate(small):
        for b in small[:i]:
            assert (a - b).abs().mean() > 20
    pictures["waves"][:] = 0  # yours to change: the next call is not affected
    assert data.styles("waves")["waves"].any()
    with pytest.raises(KeyError, match="no style named 'wave'; there are strokes, mosaic"):
        data.styles("wave")


# ---- the losses


@pytest.mark.parametrize(("build", "layers"), [("vgg16", 8), ("vgg19", 9)])
def test_the_teacher_is_torchvisions_vgg(build: str, layers: int) -> None:
    vgg = getattr(torchvision.models, build)(weights=None).eval()
    teacher = Teacher(vgg.state_dict())
    assert len(teacher.convs) == layers
    x = torch.rand(2, 3, 32, 40)
    z = torchvision.transforms.functional.normalize(x, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    taps, features = [], z
    with torch.no_grad():
        for i, module in enumerate(vgg.features[: 21 if build == "vgg19" else 19]):
            features = module(features)
            if i in (1, 6, 11) or features.shape[1] == 512:
                taps.append(features)
        look = teacher(x)
    torch.testing.assert_close(look.features, taps[-1])
    for seen, tap in zip(look.statistics, [*taps[:3], taps[-1]], strict=True):
        torch.testing.assert_close(seen[:, 0], tap.mean((2, 3)), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(
            seen[:, 1] ** 2, tap.var((2, 3), correction=0) + 1e-5, rtol=1e-4, atol=1e-6
        )
    for variance, tap in zip(look.variances, [*taps[:3], taps[-1]], strict=True):
        torch.testing.assert_close(variance, tap.flatten(1).var(1, correction=0), rtol=1e-3, atol=2e-5)


def test_the_losses() -> None:
    teacher = Teacher(narrow_vgg())
    x = photo(size=64)
    look, other = teacher(x), teacher(photo("coffee", 64))
    assert content_distance(look, look).item() == style_distance(look, look).item() == 0
    by_hand = (other.features - look.features).square().mean() / look.features.var(correction=0)
    assert content_distance(other, look).item() == pytest.approx(by_hand.item(), rel=1e-3)
    by_hand = sum(
        ((a - b).square().mean(2).sum() / v).item()
        for a, b, v in zip(other.statistics, look.statistics, look.variances, strict=True)
    )
    assert style_distance(other, look).item() == pytest.approx(by_hand, rel=1e-5)
    half = style_distance(other, look, (0, 0, 0, 0.5))
    (a, _), v = (x.statistics[-1] for x in (other, look)), look.variances[-1]
    by_hand = 0.5 * ((a - look.statistics[-1]).square().mean(2).sum() / v).item()
    assert half.item() == pytest.approx(by_hand, rel=1e-5)
    # Style does not see where things are, content does.
    mirrored = teacher(x.flip(3).flip(3).flip(2))
    assert style_distance(mirrored, look).item() < 0.2 * style_distance(other, look).item()
    assert content_distance(mirrored, look).item() > 0.1


@pytest.mark.parametrize("average", [False, True])
def test_the_teachers_statistics_are_moments(average: bool) -> None:
    teacher = Teacher(narrow_vgg()).double()
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    look = teacher(x, average=average)
    assert isinstance(look, Look)
    features = []
    for conv in teacher.convs:
        conv.register_forward_hook(lambda _, inputs, output: features.append(output.relu()))
    again = teacher(x, average=average)
    taps = [f for f, looks_at in zip(features, teacher.looks_at, strict=True) if looks_at]
    measured = [torch.stack(moments(f, (2, 3), eps=1e-5, keepdim=False), dim=1) for f in taps]
    for ours, theirs in zip(again.statistics, measured, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)
    ours, theirs = (
        torch.autograd.grad(sum((k * m.square()).sum() for k, m in enumerate(s, 1)), x, retain_graph=True)[0]
        for s in (again.statistics, measured)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    pooled = teacher(x, average=not average)
    assert (pooled.features - look.features).abs().max() > 0.01


def test_teachers_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="torchvision's VGG names"):
        Teacher({"layer1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="without batch norm"):
        Teacher(torchvision.models.vgg11_bn(weights=None).state_dict())


# ---- training


def narrow_vgg() -> dict[str, Tensor]:
    """A VGG-16 trunk with few channels and random weights: quick, and good enough to be looked through."""
    g, state, c = torch.Generator().manual_seed(0), {}, 3
    for i, d in {0: 8, 2: 8, 5: 12, 7: 12, 10: 16, 12: 16, 14: 16, 17: 24}.items():
        state[f"features.{i}.weight"] = torch.randn(d, c, 3, 3, generator=g) * (2 / (9 * c)) ** 0.5
        state[f"features.{i}.bias"] = torch.zeros(d)
        c = d
    return state


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    (folder / "content").mkdir()
    (folder / "style" / "drawn").mkdir(parents=True)
    for name, x in data.photos("cat", "coffee", "astronaut").items():
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(folder / "content" / f"{name}.jpg")
    (folder / "content" / "broken.jpg").write_bytes(b"not a picture")
    for name, x in data.styles("waves", "mosaic").items():
        Image.fromarray(x.permute(1, 2, 0).numpy()).save(folder / "style" / "drawn" / f"{name}.png")
    save_file(narrow_vgg(), folder / "teacher.safetensors")
    return folder


def training(material: Path, out: Path, *more: str) -> list[str]:
    return [
        "--content", str(material / "content"), "--style", str(material / "style"),
        "--teacher", str(material / "teacher.safetensors"), "--out", str(out), "--batch", "2", "--crop", "32",
        "--save-every", "0", "--workers", "2", "--device", "cpu", *more,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def run_training(arguments: list[str], *launcher: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *launcher, "-m", *(["--"] if launcher else []), "normtut.style.train", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def assert_same_weights(a: Path, b: Path) -> None:
    ours, theirs = load_file(a / "style.safetensors"), load_file(b / "style.safetensors")
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_training_ends_with_the_same_weights(material: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    steps = ("--steps", "20")
    done = run_training(training(material, whole, *steps))
    assert done.returncode == 0, done.stderr
    assert 1 <= done.stderr.count("broken.jpg") <= 3  # named by each process once, and training goes on

    command = [sys.executable, "-m", "normtut.style.train", *training(material, parts, *steps)]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 240
        while not (parts / "checkpoint.pth").exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    killed_at = torch.load(parts / "checkpoint.pth", weights_only=True)["step"]
    assert 0 < killed_at < 20

    resumed = run_training(training(material, parts, *steps))
    assert resumed.returncode == 0, resumed.stderr
    assert f"at step {killed_at}" in resumed.stderr
    assert_same_weights(whole, parts)
    assert StyleTransfer.pretrained(parts / "style.safetensors").stylize(photo(), style()).isfinite().all()
    assert (parts / "samples" / "step-000020.jpg").exists()


@pytest.mark.parametrize("amp", ["--no-amp", "--amp"])
def test_legs(material: Path, tmp_path: Path, amp: str) -> None:
    """A run that pauses is the run that does not; and another begins where it ended, with other settings."""
    steps = ("--steps", "5", amp)
    for stop in ("2", "4", "5"):
        train.main(training(material, tmp_path / "paused", *steps, "--stop", stop))
    train.main(training(material, tmp_path / "whole", *steps))
    assert_same_weights(tmp_path / "whole", tmp_path / "paused")

    start = ("--start", str(tmp_path / "whole" / "checkpoint.pth"), "--steps", "3", "--crop", "40", amp)
    for stop in ("1", "2", "3"):
        train.main(training(material, tmp_path / "next-paused", *start, "--stop", stop))
    train.main(training(material, tmp_path / "next", *start))
    assert_same_weights(tmp_path / "next", tmp_path / "next-paused")
    before, after = (load_file(tmp_path / d / "style.safetensors") for d in ("whole", "next"))
    assert all(0 < (before[k] - after[k]).abs().max() < 0.1 for k in before)

    with pytest.raises(SystemExit, match=r"checkpoint.pth was made with another steps, lr; .*--start"):
        train.main(training(material, tmp_path / "whole", "--steps", "6", "--lr", "1e-4", amp))


def test_a_leg_may_begin_with_a_network_that_has_grown(material: Path, tmp_path: Path) -> None:
    train.main(training(material, tmp_path / "small", "--steps", "1"))
    checkpoint = tmp_path / "small" / "checkpoint.pth"
    state = torch.load(checkpoint, weights_only=True)
    new = [k for k in state["network"] if k.startswith("decoder.inner2")]
    for part in ("network", "average"):
        for name in new:
            del state[part][name]
    torch.save(state, checkpoint)
    train.main(training(material, tmp_path / "large", "--steps", "1", "--start", str(checkpoint)))
    before, after = (load_file(tmp_path / d / "style.safetensors") for d in ("small", "large"))
    assert new
    assert all((before[k] - after[k]).abs().max() < 0.01 for k in before if k not in new)
    assert all(after[k].std() > 0.01 for k in new)
    # What the network does not know is not dropped in silence; and a run of its own must fit as a whole.
    state["network"]["extra"] = torch.zeros(1)
    torch.save(state, checkpoint)
    with pytest.raises(SystemExit, match="no checkpoint of this network: unexpected extra"):
        train.main(training(material, tmp_path / "larger", "--steps", "1", "--start", str(checkpoint)))
    with pytest.raises(SystemExit, match=r"(?s)no checkpoint of this network: .*decoder.inner2"):
        train.main(training(material, tmp_path / "small", "--steps", "2"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_training_lowers_the_loss_on_two_processes(material: Path, tmp_path: Path) -> None:
    launcher = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        "--local-addr",
        "127.0.0.1",
    ]
    done = run_training(training(material, tmp_path, "--steps", "150", "--save-every", "999"), *launcher)
    assert done.returncode == 0, done.stderr
    import json

    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [50, 100, 150]  # one writer
    assert log[-1]["style"] < 0.9 * log[0]["style"]
    start = ("--start", str(tmp_path / "checkpoint.pth"), "--steps", "1")
    next_leg = run_training(training(material, tmp_path / "next", *start), *launcher)
    assert next_leg.returncode == 0, next_leg.stderr


def test_every_option_of_training_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main(["--help"])
    options = " ".join(capsys.readouterr().out.partition("options:")[2].split())
    for field in dataclasses.fields(train.Config):
        flag = "--" + field.name.replace("_", "-")
        words = re.search(
            rf"{flag}(?:, --no-{field.name})? (?:{field.name.upper()} )?(.+?)(?= --|$)", options
        )[1]
        default = re.search(r" \(default: (.*)\)$", words)
        assert len(words.replace(default[0] if default else "", "").split()) >= 3, flag
        assert (default[1] if default else None) in (None, str(field.default)), flag
    assert "--crop CROP side of the crops, in pixels (default: 256)" in options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--crop", "4"], "--crop must be at least 32, got 4"),
        (["--smallest", "0"], "--smallest must be above 0 and at most 1, got 0.0"),
        (["--layer-weights", "1,2"], "--layer-weights must be four numbers, got 1,2"),
        (["--style", "{dir}/empty"], "no images .* in .*empty"),
        (["--style", "{dir}/broken"], "20 unreadable images in a row$"),  # said by a process of its own
        (["--teacher", "{dir}/none.pth"], "none.pth"),
        (["--start", "{dir}/none.pth"], "there is no checkpoint .*none.pth to start from"),
        (["--start", "{dir}/cut.pth"], "cut.pth is no checkpoint of this network"),
        (["--start", "{dir}/other.pth"], "other.pth is no checkpoint of this network"),
    ],
)
def test_training_says_what_is_wrong(
    material: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "empty" / "pipe.png")  # opening it would wait for ever
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "text.png").write_text("no picture")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "other.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:500])
    more = [a.format(dir=tmp_path) for a in arguments]
    with pytest.raises(SystemExit, match=f"normtut.style.train: .*{words}"):
        train.main(training(material, tmp_path / "out", *more))


def test_odd_files_are_skipped_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture).save(tmp_path / "exif.jpg", exif=b"Exif\0\0broken")
    damaged = bytearray((tmp_path / "a.png").read_bytes())
    damaged[12:16] = b"IEND"  # Pillow answers with a SyntaxError or an OSError, as the damage falls
    (tmp_path / "damaged.png").write_bytes(damaged)
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(picture[..., 0].astype(np.uint16) * 257).save(tmp_path / "z16.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    images = train.Images(tmp_path, smallest=0.5)
    assert [p.name for p in images.files] == ["a.png", "damaged.png", "exif.jpg", "text.png", "z16.png"]
    read = [images[i] for i in (0, 1, 2, 3, 1, 3)]
    assert [r is not None for r in read] == [True, False, True, False, False, False]
    said = [line.split(": ")[0] for line in capsys.readouterr().err.splitlines()]
    assert said == [f"skipped {tmp_path / name}.png" for name in ("damaged", "text")]
    assert images[4] is not None
    assert np.array_equal(images[4].permute(1, 2, 0).numpy(), picture[..., :1].repeat(3, 2))  # not clipped
    # Crops are of what can be read, and the same for the same seed.
    crops = [images.crop(np.random.default_rng(k), 16) for k in (1, 1, 2)]
    assert torch.equal(crops[0], crops[1])
    assert not torch.equal(crops[0], crops[2])


def test_small_pictures_are_mirrored_rather_than_enlarged(tmp_path: Path) -> None:
    fine = np.zeros((24, 40, 3), np.uint8)
    fine[:, np.arange(40) % 4 < 2] = 255  # lines of two pixels
    Image.fromarray(fine).save(tmp_path / "fine.png")

    def steps(enlarge: bool) -> list[float]:
        images = train.Images(tmp_path, smallest=1, enlarge=enlarge)
        crops = [images.crop(np.random.default_rng(k), 64) for k in range(9)]
        assert all(crop.shape == (3, 64, 64) for crop in crops)
        return [crop.diff(dim=2).abs().mean().item() for crop in crops]

    assert max(steps(enlarge=True)) < 0.25 < 0.35 < min(steps(enlarge=False))
    for n, side in ((3, 8), (8, 8), (9, 4), (1, 5)):
        index = train._mirrored(n, side, np.random.default_rng(0))
        assert len(index) == side
        assert set(index.tolist()) <= set(range(n))
        assert index.diff().abs().max() <= 1


@pytest.mark.skipif(os.name != "posix", reason="Windows has other rights")
def test_weights_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    """safetensors itself writes for the owner alone."""
    before = os.umask(0o027)
    try:
        train._write(tmp_path / "w.safetensors", lambda path: save_file({"w": torch.ones(2)}, path))
    finally:
        os.umask(before)
    assert (tmp_path / "w.safetensors").stat().st_mode & 0o777 == 0o640


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pth").write_bytes(b"old")

    def full(path: Path) -> None:
        path.write_bytes(b"half of")
        raise RuntimeError("unexpected pos 576 vs 470")  # what torch.save says

    with pytest.raises(OSError, match=r"cannot write .*checkpoint.pth \(is the disk full\?\)"):
        train._write(tmp_path / "checkpoint.pth", full)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pth"]
    assert (tmp_path / "checkpoint.pth").read_bytes() == b"old"


def test_augmentations() -> None:
    x = photo(size=64)[0]
    rngs = [np.random.default_rng(k) for k in range(40)]
    for change in (train.recolour, train.degrade):
        for rng in rngs:
            y = change(x, rng)
            assert y.shape == x.shape
            assert 0 <= y.min() <= y.max() <= 1
    degraded = [(train.degrade(x, rng) - x).abs() for rng in rngs]
    assert max(d.mean().item() for d in degraded) < 0.06  # it stays the picture …
    assert sum(d.mean().item() > 0.003 for d in degraded) > 20  # … but mostly is not the same
    recoloured = [(train.recolour(x, rng) - x).abs().mean().item() for rng in rngs]
    assert sum(d > 0.05 for d in recoloured) > 15


def test_colors_are_compared_together() -> None:
    generator = torch.Generator().manual_seed(0)
    gray = torch.rand(2, 1, 32, 32, generator=generator).expand(2, 3, 32, 32)
    order = torch.randperm(32 * 32, generator=generator)
    hues = torch.stack([gray[:, 0], gray[:, 1].flatten(1)[:, order].view(2, 32, 32), 1 - gray[:, 2]], dim=1)
    for a, b in zip(moments(gray, (2, 3)), moments(hues, (2, 3)), strict=True):
        assert (a - b).abs().max() < 0.05  # channel by channel the two are alike
    assert color_distance(hues, gray).min() > 0.5
    assert color_distance(gray.flip(2) + 0.1, gray).max() < 1e-6  # neither places nor brightness count
    # Half of the contrast in the same hues: a quarter of every covariance, and no detail is amiss.
    sizes = torch.stack([x.flatten(1).cov(correction=0).square().sum() for x in gray])
    expected = 0.75**2 * sizes / ((sizes + sizes.mean()) / 2)
    torch.testing.assert_close(color_distance(gray / 2, gray), expected, atol=5e-3, rtol=0)


def test_coloured_fringes_are_seen_where_the_picture_as_a_whole_has_the_right_colours() -> None:
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., 16:48] = 0.5  # one gray bar on black
    fringed = stripes.clone()
    fringed[:, 0, :, 15] = 0.5  # whose red begins a pixel early
    fringed[:, 0, :, 47] = 0.0  # and ends as early
    assert color_distance(fringed, stripes).item() > 0.1
    assert color_distance(stripes, stripes).item() < 1e-6
    assert color_distance(0.3 * stripes + 0.35, stripes).item() > 0.4  # by the whole: paler
    ours, theirs = (torch.tensor(d)[None].diag_embed() for d in ([9.0, 1.0, 0.0], [4.0, 0.0, 0.0]))
    expected = (1 - 0.9**0.5) ** 2 + 0.1
    torch.testing.assert_close(_hue_distance(ours, theirs).item(), expected, atol=2e-3, rtol=0)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))[0]
    turned = _hue_distance(turn @ ours @ turn.mT, turn @ theirs @ turn.mT)  # no axis is preferred
    torch.testing.assert_close(turned.item(), expected, atol=2e-3, rtol=0)


def test_no_lattice_leaves_an_eighth_of_the_resolution() -> None:
    y, x = torch.meshgrid(torch.arange(12), torch.arange(9), indexing="ij")
    for lattice in ((-1.0) ** x, (-1.0) ** y, (-1.0) ** (x + y)):
        assert soften(lattice[None, None]).abs()[..., 1:-1, 1:-1].max() < 1e-6
    flat = torch.full((1, 2, 3, 1), 5.0)
    torch.testing.assert_close(soften(flat), flat)


def test_smooth_is_where_nothing_varies() -> None:
    x = torch.linspace(0.4, 0.6, 64).expand(1, 3, 64, 64).clone()  # a sky …
    x[..., 40:, 20:44] = torch.rand(1, 1, 24, 24)  # … above a wood
    smooth = train.smoothness(x)
    assert smooth[..., 4:32, 4:-4].min() > 0.8
    assert smooth[..., 46:58, 26:38].max() < 0.01


# ---- the command


def stylize(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers())
    args = parser.parse_args(["stylize", *map(str, arguments)])
    return args.run(args)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "in.png"
    Image.fromarray((photo()[0] * 255).byte().permute(1, 2, 0).numpy()).save(path)
    return path


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".TIF", ".bmp"])
def test_the_command_paints(picture: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = picture.with_name("out" + suffix)
    assert stylize(picture, "waves", "-o", out, "--size", 64) == 0
    assert "64 × 64" in capsys.readouterr().out
    with Image.open(out) as image:
        assert image.size == (64, 64)
    assert sorted(p.name for p in picture.parent.iterdir()) == sorted(["in.png", out.name])


def test_the_command_equals_the_library(picture: Path, model: StyleTransfer) -> None:
    out = picture.with_name("out.png")
    assert stylize(picture, picture, "-o", out, "--alpha", 0.5, "--preserve-color") == 0
    content = torch.from_numpy(np.array(Image.open(picture))).permute(2, 0, 1)[None] / 255
    expected = model.stylize(content, content, 0.5, preserve_color=True)
    got = torch.from_numpy(np.array(Image.open(out))).permute(2, 0, 1)[None] / 255
    assert (got - expected).abs().max() <= 0.51 / 255


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_pictures_of_every_mode(picture: Path, mode: str) -> None:
    source = picture.with_name("source.tif" if mode == "CMYK" else "source.png")
    if mode == "I;16":
        gray = np.array(Image.open(picture).convert("L"))
        Image.fromarray(gray.astype(np.uint16) * 257).save(source)
        read = cli._read(str(source))
        assert (read - torch.from_numpy(gray) / 255).abs().max() <= 1 / 255
    else:
        Image.open(picture).convert(mode).save(source)
    assert stylize(source, "mosaic", "-o", picture.with_name("out.png")) == 0


@pytest.mark.parametrize(("suffix", "kept"), [("png", True), ("webp", True), ("tif", True), ("jpg", False)])
def test_transparency_stays_where_the_format_has_it(tmp_path, suffix, kept, capsys) -> None:
    rgba = np.zeros((20, 30, 4), np.uint8)
    rgba[..., 3] = np.arange(20)[:, None] * 13
    Image.fromarray(rgba).save(tmp_path / "in.png")
    out = tmp_path / f"out.{suffix}"
    assert stylize(tmp_path / "in.png", "waves", "-o", out) == 0
    said = capsys.readouterr().out
    assert f"30 × 20 pixels; transparency {'kept' if kept else 'put on white'}\n" in said
    with Image.open(out) as image:
        assert image.mode == ("RGBA" if kept else "RGB")
        if kept:
            assert (np.asarray(image)[..., 3] == rgba[..., 3]).all()


def test_what_the_format_cannot_hold_is_found_before_painting(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(StyleTransfer, "pretrained", lambda: pytest.fail("it paints"))
    Image.new("L", (16384, 1)).save(tmp_path / "long.png")
    assert stylize(tmp_path / "long.png", "waves", "-o", tmp_path / "out.webp") == 2
    assert "WEBP ends at 16383 pixels" in capsys.readouterr().err
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert stylize(tmp_path / "long.png", "waves", "-o", tmp_path / "locked" / "out.png") == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_exif_and_transparency(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert cli._read(str(tmp_path / "turned.jpg")).shape == (1, 3, 8, 4)
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (cli._read(str(tmp_path / "clear.png")) == 1).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["{in}", "waves", "-o", "{dir}/out.png", "--alpha", "1.2"],
            "--alpha must be between 0 and 1, got 1.2",
        ),
        (["{in}", "waves", "-o", "{dir}/out.png", "--alpha", "nan"], "--alpha must be between 0 and 1"),
        (["{in}", "waves", "-o", "{dir}/out.png", "--size", "0"], "--size must be between"),
        (["{in}", "waves", "-o", "{dir}/missing/out.png"], "missing does not exist"),
        (["{in}", "waves", "-o", "{dir}"], "unknown output format|is a folder"),
        (["{in}", "waves", "-o", "{dir}/out.xyz"], "unknown output format .xyz"),
        (["{in}", "waves", "-o", "{dir}/out"], "unknown output format"),
        (["{dir}/none.png", "waves", "-o", "{dir}/out.png"], "there is no file .*none.png"),
        (["{in}", "wave", "-o", "{dir}/out.png"], "there is no file wave, and no style named 'wave'"),
        (["{dir}/text.png", "waves", "-o", "{dir}/out.png"], "cannot read .*text.png"),
        (["{dir}/cut.png", "waves", "-o", "{dir}/out.png"], "cannot read .*cut.png"),
        (["{in}", "waves", "-o", "{in}"], "exists already; --force"),
        (
            ["{dir}/nan.tif", "waves", "-o", "{dir}/out.png"],
            "cannot read .*nan.tif: mode F has no agreed levels",
        ),
        (
            ["{in}", "{dir}/nan.tif", "-o", "{dir}/out.png"],
            "cannot read .*nan.tif: mode F has no agreed levels",
        ),
    ],
)
def test_the_command_says_what_is_wrong(
    picture: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = picture.parent
    (folder / "text.png").write_text("no picture")
    (folder / "cut.png").write_bytes(picture.read_bytes()[:2000])
    floats = np.full((4, 4), 0.5, np.float32)
    floats[1, :2] = np.nan, np.inf
    Image.fromarray(floats).save(folder / "nan.tif")
    before = {p: p.read_bytes() for p in folder.iterdir()}
    assert stylize(*(a.format(dir=folder, **{"in": picture}) for a in arguments)) == 2
    message = capsys.readouterr().err
    assert message.startswith("normtut stylize: ")
    assert message.count("\n") == 1
    import re

    assert re.search(words, message), message
    assert {p: p.read_bytes() for p in folder.iterdir()} == before


def test_a_folder_hides_no_style(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(picture.parent)
    for name in ("waves", "other"):
        Path(name).mkdir()
    assert stylize(picture, "waves", "-o", "out.png", "--size", 32) == 0
    assert stylize(picture, "other", "-o", "2.png") == 2
    assert "other is a folder, and no style named 'other'" in capsys.readouterr().err


def test_a_name_as_long_as_a_file_system_allows(picture: Path) -> None:
    out = picture.with_name("o" * 246 + ".png")
    assert stylize(picture, "waves", "-o", out, "--size", 32) == 0
    assert {p.name for p in picture.parent.iterdir()} == {"in.png", out.name}


def test_what_cannot_be_said_was_painted_all_the_same(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 2 promises that nothing was written."""
    out, ascii = picture.with_name("out.png"), io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", ascii)
        assert main(["stylize", str(picture), "waves", "-o", str(out), "--size", "32"]) == 0
    ascii.flush()
    assert b"out.png: 32 \\xd7 32 pixels" in ascii.buffer.getvalue()

    def gone(*_: object, **__: object) -> None:
        raise BrokenPipeError

    with monkeypatch.context() as patch:
        patch.setattr("builtins.print", gone)
        with pytest.raises(BrokenPipeError):
            stylize(picture, "waves", "-o", out, "--size", 32, "--force")


def test_force_and_a_failing_disk(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = picture.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        assert stylize(picture, "waves", "-o", picture, "--force") == 2
    assert picture.read_bytes() == before
    assert [p.name for p in picture.parent.iterdir()] == ["in.png"]
    assert stylize(picture, "waves", "-o", picture, "--force") == 0
    assert picture.read_bytes() != before
