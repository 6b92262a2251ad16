import math
import statistics

import PIL.Image
import pytest
import torch
from torch import nn

from normtut import experiments

SIZES = (2, 4, 8, 16, 32)


@pytest.fixture(scope="module")
def patches():
    return experiments.images()


def small(data, n=64):
    return experiments.Images(
        data.name, data.x[::17][:n], data.y[::17][:n], data.test_x[::5], data.test_y[::5]
    )


def test_the_stored_runs_are_complete():
    """Five norms at five batch sizes and six numbers of groups, nothing twice.

    Two seeds where chapter 13 says so, three everywhere else.
    """
    runs = [r for r in experiments.results() if r.data == "patches"]
    assert len({r.key for r in runs}) == len(runs)
    for norm in ("batch", "group", "layer", "instance", "none"):
        for size in SIZES:
            groups = 8 if norm == "group" else 0
            seeds = {r.seed for r in runs if (r.norm, r.batch_size, r.groups) == (norm, size, groups)}
            few = size == 2 and norm in ("instance", "none")
            assert seeds >= ({0, 1} if few else {0, 1, 2}), (norm, size)
    for groups in (1, 2, 4, 8, 16, 32):
        seeds = {r.seed for r in runs if (r.norm, r.batch_size, r.groups) == ("group", 8, groups)}
        assert seeds >= ({0, 1, 2} if groups == 8 else {0, 1}), groups
    assert all(0 < r.error < 1 and (r.norm == "batch") != math.isnan(r.recalibrated_error) for r in runs)


def test_what_chapter_13_says_about_them():
    runs = [r for r in experiments.results() if r.data == "patches"]

    def error(norm, size, groups=None):
        groups = (8 if norm == "group" else 0) if groups is None else groups
        return statistics.mean(
            r.error for r in runs if (r.norm, r.batch_size, r.groups) == (norm, size, groups)
        )

    assert error("batch", 2) > error("group", 2) + 0.05
    assert all(
        error("batch", s) < error(n, s) - 0.02 for s in (8, 16, 32) for n in ("group", "layer", "none")
    )
    assert all(error("instance", s) > error("group", s) + 0.1 for s in SIZES)
    assert error("group", 8, 32) > max(error("group", 8, g) for g in (1, 2, 4, 8, 16)) + 0.1


def test_networks_differ_in_their_norm_alone():
    def shapes(model, kind):
        return [tuple(p.shape) for m in model.modules() if isinstance(m, kind) for p in m.parameters()]

    models = {norm: experiments.network(norm, 11) for norm in ("batch", "group", "layer", "instance")}
    assert len({str(shapes(m, nn.Conv2d)) for m in models.values()}) == 1
    # affine parameters are as many for each
    assert len({sum(p.numel() for p in m.parameters()) for m in models.values()}) == 1
    assert all(m(torch.zeros(2, 3, 32, 32)).shape == (2, 11) for m in models.values())
    assert sum(isinstance(m, nn.GroupNorm) and m.num_groups == 8 for m in models["group"]) == 5


def test_a_run_repeats_itself_and_follows_its_seed(patches):
    data = small(patches)
    first, again, other = (experiments.train(data, "batch", 8, seed=s, epochs=2) for s in (0, 0, 1))
    assert first == again
    assert first != other
    assert not math.isnan(first.recalibrated_error)


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


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="two classes"):
        experiments.images(tmp_path)
