"""What layer, RMS and instance norm remove and keep: the statements of chapters 6 and 7."""

import pytest
import torch

from normtut import functional, layers


def test_rms_norm_is_layer_norm_with_statistics_put_back():
    x = torch.randn(50, 16).double() + torch.linspace(-9, 9, 50).double()[:, None]
    mu, sigma = x.mean(-1, keepdim=True), x.std(-1, correction=0, keepdim=True)
    z = (x - mu) / sigma
    expected = (sigma * z + mu) / (mu**2 + sigma**2).sqrt()  # equation (6.3)
    torch.testing.assert_close(functional.rms_norm(x, (16,), eps=0.0), expected, rtol=1e-12, atol=1e-12)
    centred = functional.rms_norm(x - mu, (16,), eps=0.0)
    torch.testing.assert_close(centred, functional.layer_norm(x, (16,), eps=0.0), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("dtype", "epsilon"),
    [(torch.float64, 2.0**-52), (torch.float32, 2.0**-23), (torch.bfloat16, 2.0**-23)],
)
def test_without_eps_rms_norm_adds_the_machine_epsilon_of_its_arithmetic(dtype, epsilon):
    x = torch.full((1, 4), 2.0**-12, dtype=dtype)
    y = layers.RMSNorm(4, dtype=dtype)(x)[0, 0].item()
    assert y == pytest.approx(2.0**-12 / (2.0**-24 + epsilon) ** 0.5, rel=1e-2)


def test_instance_norm_cannot_see_gain_and_offset_of_a_channel():
    x = torch.rand(2, 3, 8, 8).double()
    gain, offset = torch.rand(2, 2, 3, 1, 1).double() + 0.1
    z = functional.instance_norm(x, eps=1e-12)
    torch.testing.assert_close(functional.instance_norm(gain * x + offset, eps=1e-12), z, rtol=0, atol=1e-8)
    assert (functional.instance_norm(x**2, eps=1e-12) - z).abs().max() > 0.1  # a curve it does see


def test_tracked_instance_norm_is_in_eval_a_batch_norm_without_the_variance_between_images():
    x = torch.rand(16, 3, 8, 8).double() + torch.randn(16, 3, 1, 1).double()
    instance = layers.InstanceNorm2d(3, momentum=1.0, track_running_stats=True).double()
    batch = layers.BatchNorm2d(3, momentum=1.0).double()
    instance(x), batch(x)
    assert instance.running_mean is not None
    assert instance.running_var is not None
    as_batch_norm = functional.batch_norm(x, instance.running_mean, instance.running_var)
    torch.testing.assert_close(instance.eval()(x), as_batch_norm)
    m, total = 8 * 8, 16 * 8 * 8
    within, between = x.var((2, 3), correction=0).mean(0), x.mean((2, 3)).var(0, correction=0)
    torch.testing.assert_close(instance.running_var, within * m / (m - 1))
    torch.testing.assert_close(batch.running_var, (within + between) * total / (total - 1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("n", [1, 2])
def test_one_pixel_is_refused_for_every_batch_size_and_mode(n, training):
    with pytest.raises(ValueError, match="more than 1"):
        layers.InstanceNorm2d(3).train(training)(torch.rand(n, 3, 1, 1))
