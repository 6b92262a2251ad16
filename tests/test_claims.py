"""Chapter 15's fourteen claims, each decided here too: on other data than the chapter's, and more sharply."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import normtut
from normtut import layers, plots, reparam

g = torch.Generator()


@pytest.fixture(autouse=True)
def _same_numbers_in_every_order():
    g.manual_seed(14)


def test_every_claim_of_the_chapter_is_here_and_the_score_is_right():
    chapter = json.loads((Path(__file__).parents[1] / "book" / "15_claims.ipynb").read_text(encoding="utf-8"))
    prose = "\n".join("".join(c["source"]) for c in chapter["cells"] if c["cell_type"] == "markdown")
    claims = [int(n) for n in re.findall(r"^### (\d+)\. ", prose, flags=re.MULTILINE)]
    tests = [int(name[5:7]) for name in globals() if re.match(r"test_\d\d_", name)]
    assert claims == tests == list(range(1, 15))
    verdicts = [
        len(re.findall(rf"^\*\*{word}", prose, flags=re.MULTILINE)) for word in ("True", "Half", "False")
    ]
    assert verdicts == [1, 5, 8]
    in_order = [w[0] for w in re.findall(r"^\*\*(True|Half|False)", prose, flags=re.MULTILINE)]
    (scored,) = (
        re.search(
            r'^verdicts = dict\(enumerate\("([THF]+)", start=1\)\)', "".join(c["source"]), flags=re.MULTILINE
        )
        for c in chapter["cells"]
        if "verdicts = " in "".join(c["source"])
    )
    assert list(scored[1]) == in_order
    predicted = [c["metadata"]["normtut"]["predict"] for c in chapter["cells"] if "normtut" in c["metadata"]]
    assert [p["choices"][p["answer"]][0].upper() for p in predicted] == in_order
    words = " ".join(prose.replace(">", " ").split())
    assert "one is plainly true, five hold under a condition, and eight are false" in words


def rand(*shape):
    return torch.rand(*shape, generator=g)


def test_01_imshow_clips_and_does_not_rescale():
    x = torch.linspace(-2, 3, 50).expand(3, 2, 50)
    pixels, _ = plots.painted(x)
    inside = (x >= 0) & (x <= 1)
    assert (pixels[x < 0] == 0).all()
    assert (pixels[x > 1] == 255).all()
    assert ((pixels[inside].double() - 255 * x[inside].double()).abs() <= 1).all()
    rescaled = (x - x.min()) / (x.max() - x.min())
    assert ((pixels.double() - 255 * rescaled.double()).abs() > 50).any()


@pytest.mark.parametrize(("mean", "std"), [((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ([0.5], [0.25])])
def test_02_the_inverse_divides_the_mean_too(mean, std):
    x, m, s = rand(len(mean), 6, 5).double(), torch.tensor(mean).double(), torch.tensor(std).double()
    z = normtut.normalize(x, m, s)
    torch.testing.assert_close(normtut.normalize(z, -m / s, 1 / s), x)
    assert (normtut.normalize(z, -m, 1 / s) - x).abs().max() > 0.1


def test_03_truncation_loses_levels_and_rounding_none():
    levels = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)
    back = normtut.InverseNormalize(*normtut.IMAGENET)(normtut.Normalize(*normtut.IMAGENET)(levels / 255))
    assert torch.equal(normtut.to_uint8(back), levels)
    wrong = back.mul(255).clamp(0, 255).byte() != levels
    assert 100 < wrong.sum() < 180  # 137 of 768 were counted on one machine
    off = levels.int() - back.mul(255).clamp(0, 255).byte().int()
    assert set(off[wrong].tolist()) == {1}


def test_04_normalizing_keeps_the_shape_of_a_histogram():
    x = rand(10_000).double() ** 4  # far from Gaussian
    z = normtut.normalize(x, *normtut.moments(x, 0))

    def standardized_moment(t, k):
        return ((t - t.mean()) / t.std(correction=0)).pow(k).mean()

    for k in (3, 4, 5):
        torch.testing.assert_close(standardized_moment(z, k), standardized_moment(x, k))
    assert standardized_moment(z, 3) > 1  # a Gaussian has 0
    histograms = [torch.histc(t, 20) for t in (x, z)]
    assert torch.equal(*histograms)


def test_05_the_mean_of_stds_is_smaller_than_the_std():
    x = rand(200, 3, 8, 8) * 0.1 + rand(200, 3, 1, 1)
    of_pixels = normtut.moments(x, (0, 2, 3))[1].flatten()
    of_images = normtut.moments(x, (2, 3))[1].mean(0).flatten()
    assert (of_images < 0.5 * of_pixels).all()
    same = x - x.mean((2, 3), keepdim=True)  # equal means: then the two differ by Jensen's inequality alone
    torch.testing.assert_close(
        normtut.moments(same, (2, 3))[1].mean(0).flatten(),
        normtut.moments(same, (0, 2, 3))[1].flatten(),
        rtol=0.02,
        atol=0,
    )


def test_06_one_pass_variance_cancels_in_float32_and_not_in_float64():
    t = torch.randn(100_000, generator=g) + 1e4
    one_pass = [(v.square().mean() - v.mean().square()).item() for v in (t, t.double())]
    true = t.double().var(correction=0).item()
    assert abs(one_pass[0] - true) > 0.5
    assert one_pass[1] == pytest.approx(true, rel=1e-4)
    assert normtut.moments(t, 0)[1].square().item() == pytest.approx(true, rel=1e-4)


@pytest.mark.parametrize("family", [nn, layers])
def test_07_momentum_is_the_weight_of_the_new_value(family):
    bn = family.BatchNorm2d(2, momentum=0.1)
    bn.running_mean.fill_(5.0)
    bn(torch.full((4, 2, 3, 3), 1.0) + rand(4, 2, 3, 3) * 1e-6)
    torch.testing.assert_close(bn.running_mean, torch.full((2,), 0.9 * 5 + 0.1 * 1))


@pytest.mark.parametrize("family", [nn, layers])
def test_08_batch_norm_of_one_image_is_instance_norm_in_training_only(family):
    x = rand(1, 3, 8, 8) * 4 + 2
    bn, inorm = family.BatchNorm2d(3), family.InstanceNorm2d(3)
    torch.testing.assert_close(bn(x), inorm(x))
    assert (bn.eval()(x) - inorm.eval()(x)).abs().max() > 1
    two = rand(2, 3, 8, 8) * torch.tensor([1.0, 9.0]).view(2, 1, 1, 1)
    assert (family.BatchNorm2d(3)(two) - inorm(two)).abs().max() > 0.5


@pytest.mark.parametrize("family", [nn, layers])
def test_09_one_group_is_layer_norm_over_the_whole_image_and_not_over_channels(family):
    x = torch.randn(2, 6, 4, 4, generator=g) + torch.arange(6.0).view(6, 1, 1)
    gn = family.GroupNorm(1, 6)
    torch.testing.assert_close(gn(x), family.LayerNorm((6, 4, 4))(x))
    assert (gn(x) - family.LayerNorm(6)(x.movedim(1, -1)).movedim(-1, 1)).abs().max() > 0.3
    assert gn.weight.shape == (6,)
    assert family.LayerNorm((6, 4, 4)).weight.shape == (6, 4, 4)


@pytest.mark.parametrize("family", [nn, layers])
@pytest.mark.parametrize(
    ("make", "dead"),
    [
        (lambda f: f.BatchNorm2d(6), True),
        (lambda f: f.BatchNorm2d(6, affine=False), True),
        (lambda f: f.InstanceNorm2d(6), True),
        (lambda f: f.InstanceNorm2d(6, affine=True), True),
        (lambda f: f.GroupNorm(6, 6), True),
        (lambda f: f.GroupNorm(2, 6), False),
        (lambda f: f.GroupNorm(1, 6), False),
        (lambda f: f.BatchNorm2d(6).eval(), False),
        (lambda f: nn.Sequential(nn.ReLU(), f.BatchNorm2d(6)), False),
        (lambda f: nn.Sequential(nn.ZeroPad2d(1), f.InstanceNorm2d(6)), False),
    ],
)
def test_10_a_bias_is_dead_only_where_it_is_constant_over_a_mean(family, make, dead):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 6, 3, padding=1).double()
    norm = make(family).double()
    x = rand(4, 3, 8, 8).double()
    (norm(conv(x)) * torch.randn(norm(conv(x)).shape, generator=g)).sum().backward()
    ratio = conv.bias.grad.norm() / conv.weight.grad.norm()
    assert (ratio < 1e-12) == dead


@pytest.mark.parametrize("family", [nn, layers])
def test_11_requires_grad_does_not_freeze_statistics_and_eval_does(family):
    bn = family.BatchNorm2d(3).requires_grad_(False)
    bn(rand(4, 3, 5, 5))
    assert bn.running_mean.abs().min() > 0.01
    kept = bn.running_mean.clone()
    bn.eval()(rand(4, 3, 5, 5))
    assert torch.equal(bn.running_mean, kept)


@pytest.mark.parametrize("scale", [0.1, 10.0, 1000.0])
def test_12_the_output_ignores_the_weights_size_and_the_gradient_is_divided_by_it(scale):
    w, x = torch.randn(5, 3, 3, 3, generator=g).double(), rand(8, 3, 9, 9).double()
    bn = layers.BatchNorm2d(5, eps=1e-12, dtype=torch.float64)
    direction = torch.randn(8, 5, 7, 7, generator=g).double()
    results = []
    for factor in (1.0, scale):
        v = (factor * w).requires_grad_()
        out = bn(F.conv2d(x, v))
        results.append((out, torch.autograd.grad((out * direction).sum(), v)[0]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(results[0][1], scale * results[1][1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("family", [nn, layers])
def test_13_rms_norm_is_layer_norm_of_what_has_mean_zero(family):
    t = torch.randn(5, 64, generator=g) + 3
    rms, ln = family.RMSNorm(64, eps=1e-5), family.LayerNorm(64, eps=1e-5)
    centred = t - t.mean(-1, keepdim=True)
    torch.testing.assert_close(rms(centred), ln(centred))
    assert (rms(t) - ln(t)).abs().max() > 0.5
    assert (rms(t).mean(-1) > 0.5).all()
    torch.testing.assert_close(ln(t).mean(-1), torch.zeros(5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("wrap", [reparam.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_14_a_spectrally_normalized_blur_makes_a_constant_image_three_times_as_bright(wrap):
    conv = nn.Conv2d(1, 1, 3, bias=False)
    nn.init.constant_(conv.weight, 1 / 9)
    wrap(conv)
    assert conv(torch.ones(1, 1, 9, 9)).max().item() == pytest.approx(3, rel=1e-3)
    dense = wrap(nn.Linear(9, 9, bias=False), n_power_iterations=200)
    x = torch.randn(1000, 9, generator=g)
    assert (dense(x).norm(dim=1) / x.norm(dim=1)).max() <= 1.001
