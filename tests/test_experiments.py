import copy
import itertools
import math
import statistics
import subprocess
import sys

import PIL.Image
import pytest
import torch
from torch import nn

from normtut import experiments
from normtut.data import PhotoPatches

SIZES = (2, 4, 8, 16, 32)
NORMS = ("batch", "group", "layer", "instance", "none", "tanh")


@pytest.fixture(scope="module")
def patches():
    return experiments.images()


def small(data, n=64):
    return experiments.ImageSet(
        data.name, data.x[::17][:n], data.y[::17][:n], data.test_x[::5], data.test_y[::5]
    )


def incomplete(runs):
    """What is missing of three seeds for six norms and one group at five batch sizes, and for more groups."""
    wanted = {
        (job["norm"], job.get("groups", 8) if job["norm"] == "group" else 0, job["batch_size"], job["seed"])
        for job in experiments.plan(range(3), NORMS)
    }
    return wanted - {(r.norm, r.groups, r.batch_size, r.seed) for r in runs}


@pytest.mark.parametrize("data", ["patches", "photo"])
def test_the_stored_runs_are_complete(data):
    runs = [r for r in experiments.results() if r.data == data and r.norm in NORMS]
    assert not incomplete(runs)
    assert len({r.key for r in runs}) == len(runs) == 3 * (7 * 5 + 4)
    assert {r.epochs for r in runs} == {10}
    for r in runs:
        assert 0 < r.error < 1
        assert (r.norm == "batch") != math.isnan(r.recalibrated_error)
        assert ((r.norm, r.batch_size) == ("batch", 2)) != math.isnan(r.paired_error)
    assert all(incomplete([r for r in runs if r is not gone]) for gone in runs)  # one less is noticed


def test_the_plan_is_what_the_chapter_draws():
    jobs = list(experiments.plan(range(3), NORMS))
    for norm in NORMS:
        cells = {(j["batch_size"], j["seed"]) for j in jobs if j["norm"] == norm and "groups" not in j}
        assert cells == {(size, seed) for size in SIZES for seed in range(3)}
    one_group = {(j["batch_size"], j["seed"]) for j in jobs if j.get("groups") == 1}
    assert one_group == {(size, seed) for size in SIZES for seed in range(3)}
    groups = {(j["groups"], j["seed"]) for j in jobs if j.get("groups", 1) > 1}
    assert groups == {(g, seed) for g in (2, 4, 16, 32) for seed in range(3)}  # 8 is among the others


def test_what_chapter_14_says_about_them():
    runs = experiments.results()

    def error(data, norm, size, groups=None):
        groups = (8 if norm == "group" else 0) if groups is None else groups
        key = data, norm, size, groups
        return statistics.mean(r.error for r in runs if (r.data, r.norm, r.batch_size, r.groups) == key)

    for data, margin in (("patches", 0.02), ("photo", 0.0)):
        by_size = [error(data, "batch", s) for s in SIZES]
        assert by_size[0] == max(by_size)
        for s, norm in itertools.product((8, 16, 32), ("group", "layer", "instance", "none")):
            assert error(data, "batch", s) < error(data, norm, s) - margin
        assert all(error(data, "batch", s) < error(data, "group", s, 1) - margin for s in (8, 16, 32))
        for s in SIZES:  # one group is close to eight, and layer norm at each position to one group
            assert abs(error(data, "group", s, 1) - error(data, "group", s)) < 0.03
            assert abs(error(data, "layer", s) - error(data, "group", s, 1)) < 0.03
        on_pairs = [r for r in runs if (r.data, r.norm, r.batch_size) == (data, "batch", 2)]
        assert len(on_pairs) == 3
        assert all(r.paired_error > r.recalibrated_error + 0.02 for r in on_pairs)
        assert all(error(data, "instance", s) > error(data, "group", s) + 0.1 for s in SIZES)
        assert error(data, "group", 8, 32) > max(error(data, "group", 8, g) for g in (1, 2, 4, 8, 16)) + 0.1
    assert error("patches", "batch", 2) > error("patches", "group", 2) + 0.1
    assert abs(error("photo", "batch", 2) - error("photo", "group", 2)) < 0.05
    rise = {data: error(data, "batch", 2) - error(data, "batch", 16) for data in ("patches", "photo")}
    assert rise["patches"] > 2 * rise["photo"]


def test_what_chapter_8_says_about_standardized_weights():
    runs = [r for r in experiments.results() if r.data == "patches" and r.groups in (0, 8) and r.epochs == 10]

    def errors(norm, size):
        found = {r.seed: r.error for r in runs if (r.norm, r.batch_size) == (norm, size)}
        assert sorted(found) == [0, 1, 2]
        return [found[seed] for seed in range(3)]

    plain, standardized = errors("group", 2), errors("group+ws", 2)
    assert statistics.mean(standardized) < statistics.mean(plain) - 0.03
    assert sum(s < p - 0.03 for s, p in zip(standardized, plain, strict=True)) == 2
    assert max(standardized) < min(errors("batch", 2)) - 0.1
    assert max(errors("batch", 32)) < min(standardized) - 0.02


def test_standardized_weights_are_standardized_and_nothing_else_differs():
    torch.manual_seed(0)
    plain = experiments.network("group", 11)
    torch.manual_seed(0)
    network = experiments.network("group+ws", 11)
    assert [type(m).__name__.removeprefix("Parametrized") for m in network] == [
        type(m).__name__ for m in plain
    ]
    for conv in (m for m in network if isinstance(m, nn.Conv2d)):
        torch.testing.assert_close(conv.weight.mean((1, 2, 3)), torch.zeros(32), atol=1e-5, rtol=0)
        assert conv.weight.std((1, 2, 3), correction=0).min() > 0.99
        assert conv.bias is None
    torch.testing.assert_close(network[0].parametrizations.weight.original, plain[0].weight)


def test_networks_differ_in_their_norm_alone():
    def shapes(model, kind):
        return [tuple(p.shape) for m in model.modules() if isinstance(m, kind) for p in m.parameters()]

    models = {norm: experiments.network(norm, 11) for norm in ("batch", "group", "layer", "instance")}
    assert len({str(shapes(m, nn.Conv2d)) for m in models.values()}) == 1
    # affine parameters are as many for each
    assert len({sum(p.numel() for p in m.parameters()) for m in models.values()}) == 1
    assert all(m(torch.zeros(2, 3, 32, 32)).shape == (2, 11) for m in models.values())
    assert sum(isinstance(m, nn.GroupNorm) and m.num_groups == 8 for m in models["group"]) == 5


def test_layer_is_the_norm_of_each_position():
    layer = experiments.network("layer", 11)[1]
    assert isinstance(layer, experiments.PositionLayerNorm)
    x = 3 * torch.randn(2, 32, 5, 4) + 1
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
    z = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + layer.eps).sqrt()
    expected = z * layer.weight[:, None, None] + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x), expected)


def test_the_error_in_pairs_is_that_of_training():
    """Of two images alike one must look the darker one beside the other; of two unlike both are right."""
    bn = nn.BatchNorm2d(1, affine=False)
    model = nn.Sequential(bn, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2, bias=False))
    with torch.no_grad():
        model[-1].weight.copy_(torch.tensor([[-1.0], [1.0]]))  # dark is 0, light is 1
    y = torch.arange(40) % 2
    x = y.view(-1, 1, 1, 1) + 0.01 * torch.randn(40, 1, 4, 4)
    experiments.recalibrate(model, x)
    assert experiments.error(model, x, y) == 0
    before = copy.deepcopy(bn.state_dict())
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    alike = sum(len(y[pair].unique()) == 1 for pair in order.split(2))
    assert 0 < alike < 20
    assert experiments.error_in_pairs(model, x, y) == alike / 40
    assert all(torch.equal(before[k], v) for k, v in bn.state_dict().items())
    assert not model.training


def test_dynamic_tanh_is_its_formula():
    layer, x = experiments.DynamicTanh(3), torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        layer.alpha.fill_(2.0)
        layer.weight.copy_(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1))
        layer.bias.copy_(torch.tensor([0.0, -1.0, 1.0]).view(3, 1, 1))
    for c, (gamma, beta) in enumerate([(1, 0), (2, -1), (3, 1)]):
        torch.testing.assert_close(layer(x)[:, c], gamma * torch.tanh(2 * x[:, c]) + beta)
    biased = {n: experiments.network(n, 11)[0].bias is not None for n in NORMS}
    assert biased == {n: n in ("none", "tanh") for n in NORMS}  # where no mean is subtracted after it


def test_a_run_repeats_itself_and_follows_its_seed(patches):
    data = small(patches)
    first, again, other = (experiments.train(data, "batch", 8, seed=s, epochs=2) for s in (0, 0, 1))
    assert repr(first) == repr(again)  # since a NaN is not equal to itself
    assert first.error != other.error
    assert not math.isnan(first.recalibrated_error)


def test_the_error_of_a_run_is_that_of_the_fitted_network(patches):
    data = small(patches)
    run, model = (f(data, "batch", 8, seed=3, epochs=1) for f in (experiments.train, experiments.fit))
    assert not model.training
    assert round(experiments.error(model, data.test_x, data.test_y), 4) == run.error
    with torch.no_grad():
        guessed = model.eval()(data.test_x).argmax(1)
    assert experiments.error(model, data.test_x, guessed) == 0
    assert experiments.error(model.train(), data.test_x, (guessed + 1) % 11) == 1  # it evaluates, in any mode


@pytest.mark.parametrize("batch_size", [-1, 0, 65])
def test_a_batch_size_that_takes_no_step_is_refused(patches, batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be between 1 and 64, .* got {batch_size}"):
        experiments.train(small(patches), "batch", batch_size, epochs=1)


def test_an_unknown_norm_names_the_known_ones():
    with pytest.raises(ValueError, match=r"norm must be one of batch, group, .*tanh, .*got 'foo'"):
        experiments.network("foo", 3)


def test_training_learns(patches):
    """On 64 patches, in ten epochs, well below the error of guessing."""
    run = experiments.train(small(patches), "group", 4, epochs=10)
    assert run.train_error < 0.6


def test_no_pixel_is_in_both_parts(patches):
    assert len(patches.x) + len(patches.test_x) == 1426
    assert patches.x.mean((0, 2, 3)).abs().max() < 1e-4  # normalized by the training part...
    assert patches.test_x.mean((0, 2, 3)).abs().max() > 1e-3  # ... and the test part by the same numbers


def test_recalibration_gives_the_statistics_of_the_whole_set():
    bn = nn.BatchNorm2d(3)
    x = torch.randn(50, 3, 4, 4) * 3 + 1
    experiments.recalibrate(nn.Sequential(bn), x)
    torch.testing.assert_close(bn.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(bn.running_var, x.var((0, 2, 3)), rtol=1e-4, atol=0)
    assert bn.momentum == 0.1
    assert not bn.training


def test_an_interrupted_session_goes_on(tmp_path, monkeypatch, patches):
    """Each run is stored as it ends; what is stored is not run again."""
    monkeypatch.setattr(experiments, "images", lambda folder: small(patches))
    monkeypatch.setattr(experiments, "plan", lambda seeds, norms: iter(JOBS))
    trained, train = [], experiments.train

    def counting(data, norm, batch_size, **options):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(norm)
        return train(data, norm, batch_size, **options)

    monkeypatch.setattr(experiments, "train", counting)
    jobs = [{"norm": n, "batch_size": 32, "seed": 0} for n in ("batch", "group", "none")]
    JOBS.extend(jobs)
    out = tmp_path / "runs.csv"
    with pytest.raises(KeyboardInterrupt):
        experiments.main(["--epochs", "1", "--out", str(out)])
    assert [r.norm for r in experiments.results(out)] == ["batch", "group"]
    trained.clear()
    experiments.main(["--epochs", "1", "--out", str(out)])
    assert trained == ["none"]
    assert [r.norm for r in experiments.results(out)] == ["batch", "group", "none"]
    assert math.isnan(experiments.results(out)[2].recalibrated_error)


JOBS: list[dict] = []


@pytest.mark.parametrize("layout", ["{name}_{i}.png", "{name}/{i}.png"])
def test_a_folder_of_photographs(tmp_path, layout):
    for i in range(5):
        for name, level in (("dark", 40), ("light", 200)):
            path = tmp_path / layout.format(name=name, i=i)
            path.parent.mkdir(exist_ok=True)
            PIL.Image.new("RGB", (50, 40), (level, level + i, level)).save(path)
    found = experiments.images(tmp_path)
    assert found.x.shape[1:] == (3, 32, 32)
    assert len(found.x) == 8
    assert len(found.test_x) == 2
    assert sorted(found.y.tolist()) == [0] * 4 + [1] * 4
    assert (found.x[found.y == 0] < 0).all()


def test_cifar10_stands_in_for_the_patches(monkeypatch, patches):
    """It has their interface; here the patches play its part."""
    monkeypatch.setattr(experiments, "cifar10", PhotoPatches)
    found = experiments.images("cifar10")
    assert found.name == "cifar10"
    assert torch.equal(found.x, patches.x)
    assert torch.equal(found.test_y, patches.test_y)


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="two classes"):
        experiments.images(tmp_path)


def test_where_all_results_are_stored_nothing_is_run():
    """As `make experiments` runs them; of the last only what chapter 14 draws."""
    script = (
        "import runpy, sys\n"
        "for name in ('placement', 'critics', 'denoising'):\n"
        "    sys.argv = [name]\n"
        "    runpy.run_module(f'normtut.book.{name}', run_name='__main__')\n"
        "sys.argv = ['experiments']\n"
        "runpy.run_module('normtut.experiments', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
