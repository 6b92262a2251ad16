"""Most tests here start real processes: two or three, gloo, over the loopback interface."""

import inspect
import itertools
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from normtut import distributed, functional, layers
from normtut.distributed import merge_moments, run_workers, sync_batch_norm

# How a batch is shared: even, uneven, a rank with one sample, a rank with none, three ranks.
SHARDS = [(4, 4), (5, 3), (7, 1), (8, 0), (3, 4, 1), (0, 6, 2)]
LAYERS = {
    "plain": {},
    "cumulative": {"momentum": None},
    "no affine": {"affine": False},
    "untracked": {"track_running_stats": False},
    "no bias": {"bias": False},
}
INPUTS = {"vectors": (8, 3), "images": (8, 3, 4, 5), "volumes": (8, 3, 2, 3, 2)}


def batch(shape, dtype=torch.float32, offset=5.0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 + offset
    return x.to(dtype)


def make_layer(cls, arguments, dtype):
    old = "bias" not in inspect.signature(torch.nn.BatchNorm2d).parameters  # a keyword of newer versions
    layer = cls(3, dtype=dtype, **{k: v for k, v in arguments.items() if not (old and k == "bias")})
    if old and not arguments.get("bias", True):
        layer.bias = None
    if layer.weight is not None:
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([0.5, 1.5, -2.0]))
            if layer.bias is not None:
                layer.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    return layer


def two_steps(layer, x):
    """Output, input gradient and parameter gradients of the second of two training steps."""
    layer.train()
    layer(x + 1)
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * torch.linspace(-1, 1, x[:1].numel(), dtype=x.dtype).view(x[:1].shape)).square().sum().backward()
    grads = {name: p.grad for name, p in layer.named_parameters()}
    return y.detach(), x.grad, grads, dict(layer.named_buffers())


CASES = list(itertools.product(INPUTS, LAYERS, (torch.float32, torch.float64)))


def every_case(rank):
    results = {}
    for shards in (s for s in SHARDS if len(s) == dist.get_world_size()):
        for kind, name, dtype in CASES:
            part = batch(INPUTS[kind], dtype).split(shards)[rank]
            layer = make_layer(layers.SyncBatchNorm, LAYERS[name], dtype)
            results[shards, kind, name, dtype] = two_steps(layer, part)
    return results


@cache
def results_by_rank(world_size):
    return run_workers(every_case, world_size=world_size, timeout=240)


@pytest.mark.parametrize("shards", SHARDS, ids=str)
def test_statistics_and_gradients_are_those_of_the_whole_batch(shards):
    by_rank = [{case: results[(shards, *case)] for case in CASES} for results in results_by_rank(len(shards))]
    of_kind = {"vectors": nn.BatchNorm1d, "images": nn.BatchNorm2d, "volumes": nn.BatchNorm3d}
    for (kind, name, dtype), first in by_rank[0].items():
        y, grad, grads, buffers = two_steps(
            make_layer(of_kind[kind], LAYERS[name], dtype), batch(INPUTS[kind], dtype)
        )
        parts = [r[kind, name, dtype] for r in by_rank]
        tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-11}
        torch.testing.assert_close(torch.cat([p[0] for p in parts]), y, **tolerance)
        torch.testing.assert_close(torch.cat([p[1] for p in parts]), grad, **tolerance)
        for key, value in grads.items():
            torch.testing.assert_close(sum(p[2][key] for p in parts), value, **tolerance)
        for part in parts:
            assert part[3].keys() == buffers.keys()
            for key, value in buffers.items():
                torch.testing.assert_close(part[3][key], value, **tolerance)
                assert torch.equal(part[3][key], first[3][key]), "ranks must agree to the last digit"


def far_from_zero(rank):
    x = batch((64, 3, 8, 8), offset=1e4).chunk(2)[rank]
    x = x + 3 * rank  # the parts have different means
    return x, layers.SyncBatchNorm(3)(x)


def test_a_mean_far_from_zero():
    xs, ys = zip(*run_workers(far_from_zero, timeout=240), strict=True)
    x, y = torch.cat(xs).double(), torch.cat(ys)
    truth = nn.functional.batch_norm(x, None, None, training=True)
    assert (y - truth).abs().max() < 2e-3  # 10⁴ has a step of 10⁻³ in float32
    n, total, squares = x.numel() / 3, x.float().sum((0, 2, 3)), x.float().square().sum((0, 2, 3))
    one_pass = squares / n - (total / n).square()
    assert ((one_pass - x.var((0, 2, 3), correction=0)).abs() > 0.1).any()  # what the layer must not do


def second_derivative(rank):
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(sync_batch_norm(x, None, None).pow(3).sum(), x, create_graph=True)
    try:
        g.square().sum().backward()
    except RuntimeError as error:
        return str(error)


def test_a_second_derivative_is_refused():
    for answer in run_workers(second_derivative, world_size=2):
        assert "once_differentiable" in answer


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 4, 5)
    )


def train(model, x, target, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def labelled():
    return batch((12, 3, 6, 6)), torch.arange(12) % 5


def data_parallel(rank, synchronized):
    model = network()
    if synchronized:
        model = layers.SyncBatchNorm.convert_sync_batchnorm(model)
    x, target = (part.chunk(dist.get_world_size())[rank] for part in labelled())
    parallel = DistributedDataParallel(model)
    train(parallel, x, target)
    return model.state_dict()


@pytest.mark.parametrize("world_size", [2, 3])
def test_data_parallel_training_is_training_on_the_whole_batch(world_size):
    alone = train(network(), *labelled())
    for state in run_workers(data_parallel, (True,), world_size=world_size, timeout=240):
        assert state.keys() == alone.keys()
        for key, value in alone.items():
            torch.testing.assert_close(state[key], value, rtol=1e-4, atol=1e-5)


def test_without_synchronization_it_is_not():
    alone = train(network(), *labelled())
    state = run_workers(data_parallel, (False,), timeout=240)[0]
    assert (state["1.running_var"] - alone["1.running_var"]).abs().max() > 1e-3


EXAMPLE = Path(__file__).parents[1] / "book" / "examples" / "train_sync.py"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--no-sync"]], ids=["sync", "no sync"])
def test_the_example_trains_under_torchrun(arguments):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(EXAMPLE),
    ]
    run = subprocess.run([*command, "--epochs", "1", *arguments], capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr
    accuracy = re.search(r"2 processes, accuracy on the test patches: (0\.\d+)", run.stdout)
    assert accuracy, run.stdout
    assert float(accuracy[1]) > 0.2  # eleven classes: chance is 0.09


# --- bad input: an error on every rank, and no process left behind -----------------------------


UNFIT = ("channels", "dtype", "half and float", "integers on one", "integers", "one value", "features")


def unfit(rank):
    return {case: unfit_case(rank, case) for case in UNFIT}


unfit_by_rank = cache(lambda: run_workers(unfit, timeout=240))


def unfit_case(rank, case):
    x = {
        "channels": torch.randn(4, 3 + rank, 2, 2),
        "dtype": torch.randn(4, 3, 2, 2, dtype=(torch.float32, torch.float64)[rank]),
        "half and float": torch.randn(4, 3, 2, 2, dtype=(torch.float16, torch.float32)[rank]),
        "integers on one": torch.ones(4, 3, 2, 2, dtype=(torch.float32, torch.int64)[rank]),
        "integers": torch.ones(4, 3, 2, 2, dtype=torch.int64),
        "one value": torch.randn(1 - rank, 3, 1, 1),
        "features": torch.randn(4, 7, 2, 2),
    }[case]
    layer = layers.SyncBatchNorm(3)
    before = {k: v.clone() for k, v in layer.named_buffers() if "num" not in k}
    try:
        layer(x) if case != "channels" else sync_batch_norm(x, None, None)
    except ValueError as error:
        unchanged = all(torch.equal(v, layer.get_buffer(k)) for k, v in before.items())
        return str(error), unchanged
    return "no error", None


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("channels", r"disagree about the channels of their input: \[3, 4\]"),
        ("dtype", r"disagree about the dtype of their input: \['torch.float32', 'torch.float64'\]"),
        ("half and float", r"about the dtype of their input: \['torch.float16', 'torch.float32'\]"),
        ("integers on one", r"about the dtype of their input: \['torch.float32', 'no floating type'\]"),
        ("integers", r"input must be floating point, got torch.int64 of shape \(4, 3, 2, 2\)"),
        ("one value", r"more than 1 value per channel over all processes when training, got \[1, 0\]"),
        ("features", r"running_mean must have one value for each of the 7 channels.*\(4, 7, 2, 2\)"),
    ],
)
def test_unfit_input_is_refused_by_every_rank(case, words):
    for message, unchanged in (results[case] for results in unfit_by_rank()):
        assert re.search(words, message), message
        assert unchanged


def dies(rank):
    layer = layers.SyncBatchNorm(3)
    layer(torch.randn(2, 3))
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    layer(torch.randn(2, 3))


def no_child_is_alive():
    return not multiprocessing.active_children()


def test_a_killed_rank_makes_the_others_fail_with_a_message():
    start = time.monotonic()
    with pytest.raises(RuntimeError) as caught:
        run_workers(dies, world_size=3, timeout=240)
    assert time.monotonic() - start < 200
    message = str(caught.value)
    assert "rank 1: died without a word" in message
    for rank in (0, 2):
        assert f"sync_batch_norm (forward) on rank {rank} of 3: another process died" in message
    assert no_child_is_alive()


@pytest.fixture
def soon():
    """A timeout that two hanging processes wait for in vain and others do not notice: some seconds, and more
    on a machine so busy that it takes them long to come to life."""
    run_workers(abs)  # starts the server whose forks the next ones are
    start = time.monotonic()
    run_workers(abs)
    return round(4 + 4 * (time.monotonic() - start))


def begins(rank, folder):
    (Path(folder) / str(rank)).write_text(str(os.getpid()))


def pids(folder):
    """Of both processes: without them a test of how they end would prove nothing."""
    assert {file.name for file in folder.iterdir()} == {"0", "1"}
    return [int(file.read_text()) for file in folder.iterdir()]


def one_in_eval(rank, folder):
    begins(rank, folder)
    layer = layers.SyncBatchNorm(3).train(rank == 0)
    layer(torch.randn(2, 3))
    dist.barrier()


def test_a_rank_in_eval_mode_is_an_error_and_not_a_hang(tmp_path, soon):
    with pytest.raises((RuntimeError, TimeoutError)):
        run_workers(one_in_eval, (tmp_path,), timeout=soon)
    assert no_child_is_alive()
    assert pids(tmp_path)


def sleeps(rank, folder):
    begins(rank, folder)
    time.sleep(1000)


def test_a_timeout_leaves_no_process_behind(tmp_path, soon):
    with pytest.raises(TimeoutError, match=rf"ranks \[0, 1\] of 2 were not done after {soon} s"):
        run_workers(sleeps, (tmp_path,), timeout=soon)
    assert no_child_is_alive()
    for pid in pids(tmp_path):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def drawn_and_set(rank):
    return np.random.random(), os.environ.get("NORMTUT_OF_THE_TEST")  # noqa: NPY002


@pytest.mark.parametrize("start", ["forkserver", "spawn"])
def test_workers_draw_their_own_numbers_and_know_the_environment(monkeypatch, start):
    """Even where they are forks of a server that is older than either."""
    monkeypatch.setattr("normtut.distributed._START", start)
    if start == "forkserver":
        run_workers(drawn_and_set, timeout=240)
    monkeypatch.setenv("NORMTUT_OF_THE_TEST", "set")
    (first, a), (second, b) = run_workers(drawn_and_set, timeout=240)
    assert first != second
    assert (a, b) == ("set", "set")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each worker imports torch")
def test_workers_come_with_torch_imported_and_write_into_no_notebook(capfd):
    def says_something(rank):  # travels by value, so that no worker imports this file
        os.write(1, b"from C, to the terminal\n")
        print("from Python")
        return time.process_time()

    seconds = run_workers(says_something)
    assert max(seconds) < 0.5  # of their own processor time: importing torch takes more than a second
    assert capfd.readouterr() == ("", "")


def fails_aloud(rank):
    os.write(2, b"a last word\n")
    raise ArithmeticError(f"of rank {rank}")


def test_what_failing_workers_wrote_is_in_the_message():
    with pytest.raises(RuntimeError, match="2 of 2 processes failed") as caught:
        run_workers(fails_aloud)
    for rank in range(2):
        assert f"ArithmeticError: of rank {rank}" in str(caught.value)
    assert str(caught.value).count("| a last word") == 2


def fails_at_length(rank):
    os.write(2, b"".join(b"line %d\n" % i for i in range(30)))
    raise ArithmeticError


def test_of_what_a_worker_wrote_the_last_20_lines_are_told():
    with pytest.raises(RuntimeError) as caught:
        run_workers(fails_at_length, world_size=1)
    assert re.findall(r"\| line (\d+)", str(caught.value)) == [str(i) for i in range(10, 30)]


def test_workers_are_refused_where_there_are_none():
    with pytest.raises(ValueError, match="world_size must be at least 1, got 0"):
        run_workers(dies, world_size=0)


# --- without processes -------------------------------------------------------------------------


@pytest.fixture
def alone():
    """This process is a group by itself, which takes milliseconds."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("shape", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_a_group_of_one_it_is_batch_norm(alone, shape, dtype):
    results = []
    for function, options in ((nn.functional.batch_norm, {"training": True}), (sync_batch_norm, {})):
        x = batch(shape, dtype).requires_grad_()
        mean, var = torch.tensor([1.0, 2, 3], dtype=dtype), torch.tensor([4.0, 5, 6], dtype=dtype)
        gamma = torch.tensor([0.5, 1.5, -2.0], dtype=dtype).requires_grad_()
        beta = torch.tensor([1.0, 2.0, 3.0], dtype=dtype).requires_grad_()
        y = function(x, mean, var, gamma, beta, momentum=0.3, eps=0.7, **options)
        (y * torch.linspace(-1, 1, y.numel(), dtype=dtype).view(shape)).square().sum().backward()
        results.append((y, x.grad, gamma.grad, beta.grad, mean, var))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_rounded_once(alone, dtype):
    x = batch((8, 3, 4, 5), dtype)
    y = sync_batch_norm(x, None, None)
    assert y.dtype == dtype
    torch.testing.assert_close(y, sync_batch_norm(x.float(), None, None).to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("x", "running_mean", "words"),
    [
        (torch.ones(4, 3, dtype=torch.int64), None, r"must be floating point, got torch.int64 of shape"),
        (torch.ones(1, 3), None, r"more than 1 value .* got \[1\], by rank"),
        (torch.ones(0, 3), None, r"more than 1 value .* got \[0\], by rank"),
        (torch.ones(4, 0), None, r"more than 1 value .* got \[0\], by rank"),
        (
            torch.ones(2, 3),
            torch.zeros(7),
            r"running_mean must .* each of the 3 channels .* got shape \(7,\)",
        ),
    ],
)
def test_a_group_of_one_refuses_what_any_group_does(alone, x, running_mean, words):
    with pytest.raises(ValueError, match=words):
        sync_batch_norm(x, running_mean, running_mean)


def test_what_does_not_fit_is_refused_also_after_what_is_missing(alone):
    with pytest.raises(ValueError, match="weight must have one value for each of the 3 channels"):
        sync_batch_norm(torch.ones(2, 3), None, None, weight=torch.ones(7))


def test_two_values_are_enough(alone):
    assert sync_batch_norm(torch.tensor([[1.0], [3.0]]), None, None, eps=0).flatten().tolist() == [-1, 1]


def test_without_a_process_group_it_is_batch_norm():
    x = batch((8, 3, 4, 5))
    for arguments in LAYERS.values():
        ours = two_steps(make_layer(layers.SyncBatchNorm, arguments, torch.float32), x)
        theirs = two_steps(make_layer(nn.BatchNorm2d, arguments, torch.float32), x)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="at least 2D"):
        layers.SyncBatchNorm(3)(torch.randn(3))


def test_state_and_arguments_are_those_of_torch():
    ours, theirs = layers.SyncBatchNorm(4, momentum=None), nn.SyncBatchNorm(4, momentum=None)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    assert repr(ours) == repr(theirs) or torch.__version__ < "2.9"  # older ones do not print bias


def test_conversion_keeps_parameters_and_mode():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(layers.BatchNorm3d(4, affine=False))).eval()
    weight = model[0].weight
    converted = layers.SyncBatchNorm.convert_sync_batchnorm(model)
    assert [type(m) for m in converted.modules()].count(layers.SyncBatchNorm) == 2
    assert converted[0].weight is weight
    assert not converted[0].training
    assert converted[1][0].process_group is None


# --- the merge ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(3, 5), (1, 1, 1), (0, 4), (7,), (2, 0, 9)])
def test_merged_moments_are_those_of_the_whole(sizes):
    whole = batch((sum(sizes), 3), torch.float64, offset=1e6)
    parts = whole.split(sizes)
    means = torch.stack([p.mean(0) if len(p) else torch.zeros(3, dtype=torch.float64) for p in parts])
    m2s = torch.stack([(p - m).square().sum(0) for p, m in zip(parts, means, strict=True)])
    count, mean, m2 = merge_moments(torch.tensor(sizes), means, m2s)
    assert count == len(whole)
    torch.testing.assert_close(mean, whole.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(m2 / count, whole.var(0, correction=0), rtol=1e-8, atol=1e-12)


def test_parts_in_float32_are_merged_in_float64_and_rounded_once():
    """Near 10⁶ float32 has steps of 0.06: a mean that is rounded on the way shows in all that follows."""
    g = torch.Generator().manual_seed(0)
    counts = torch.randint(1, 1000, (50,), generator=g)
    means = 1e6 + torch.randn(50, 4, generator=g)
    m2s = torch.rand(50, 4, generator=g)
    _, mean, m2 = merge_moments(counts, means, m2s)
    n, wide = counts.double()[:, None], means.double()
    whole_mean = (n * wide).sum(0) / counts.sum()
    whole_m2 = (m2s.double() + n * (wide - whole_mean).square()).sum(0)
    assert mean.dtype == m2.dtype == torch.float32
    assert torch.equal(mean, whole_mean.float())
    assert torch.equal(m2, whole_m2.float())


def test_an_empty_whole_and_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"empty whole"):
        merge_moments(torch.tensor([0, 0]), torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"got \(2,\), \(3,\) and \(3,\)"):
        merge_moments(torch.tensor([1, 2]), torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"got \(\), \(\) and \(\)"):
        merge_moments(torch.tensor(2), torch.tensor(1.0), torch.tensor(1.0))
    for count in (-1, -2):
        with pytest.raises(ValueError, match=rf"counts must not be negative, got \[{count}, 3\]"):
            merge_moments(torch.tensor([count, 3]), torch.zeros(2), torch.zeros(2))


def test_a_whole_of_one_value_has_a_mean():
    count, mean, m2 = merge_moments(torch.tensor([0, 1]), torch.tensor([5.0, 7.0]), torch.zeros(2))
    assert (count, mean, m2) == (1, 7, 0)


@pytest.mark.parametrize("name", ["counts", "means", "m2s"])
def test_what_is_no_tensor_is_named(name):
    given = {"counts": torch.tensor([1, 2]), "means": torch.zeros(2), "m2s": torch.zeros(2), name: [1, 2]}
    with pytest.raises(TypeError, match=rf"^{name} must be a tensor, got list$"):
        merge_moments(**given)


def test_of_a_list_a_process_says_so_before_it_asks_the_others():
    with pytest.raises(TypeError, match=r"^input must be a tensor, got list$"):
        sync_batch_norm([1.0], None, None)


def test_what_is_left_out_is_as_in_batch_norm():
    defaults = [
        {k: p.default for k, p in inspect.signature(f).parameters.items() if k not in ("training", "group")}
        for f in (sync_batch_norm, functional.batch_norm)
    ]
    both = defaults[0].keys() & defaults[1].keys()
    assert both >= {"weight", "bias", "momentum", "eps"}
    assert {k: defaults[0][k] for k in both} == {k: defaults[1][k] for k in both}


def test_merging_integers_does_not_truncate():
    _, mean, m2 = merge_moments(torch.tensor([2, 3]), torch.tensor([2, 20]), torch.tensor([2, 200]))
    assert (mean.item(), m2.item()) == (12.8, pytest.approx(590.8))


# -- the parts of it, without processes --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([[5, 0, 4]], r"disagree about the channels of their input: \[3, 5\], by rank"),
        (
            [[3, 1, 4], [3, 0, 4]],
            r"disagree about the dtype of their input: \['torch.float32', 'torch.float64', 'torch.float32'\]",
        ),
        ([[3, 4, 4]], r"dtype of their input: \['torch.float32', 'no floating type'\], by rank"),
    ],
)
def test_every_process_is_told_what_each_of_them_has(monkeypatch, others, words):
    x = torch.zeros(4, 3)
    monkeypatch.setattr(distributed, "_all_gather", lambda mine, _: [mine, *map(torch.tensor, others)])
    with pytest.raises(ValueError, match=words):
        distributed._agree(x, None)
    monkeypatch.setattr(distributed, "_all_gather", lambda mine, _: [mine, torch.tensor([3, 0, 7])])
    assert distributed._agree(x, None).tolist() == [4, 7]


@pytest.fixture
def waits(monkeypatch):
    """The timeouts with which the pipes were waited for."""
    timeouts = []
    wait = distributed.wait

    def noted(pipes, timeout):
        timeouts.append(timeout)
        assert pipes  # else there is nothing to wait for
        assert len(timeouts) < 9
        return wait(pipes, min(timeout, 5))

    monkeypatch.setattr(distributed, "wait", noted)
    return timeouts


def test_answers_and_deaths_are_collected_until_all_are_there(waits):
    pipes = [multiprocessing.Pipe(duplex=False) for _ in range(3)]
    pipes[0][1].send_bytes(pickle.dumps((True, "zero")))
    pipes[1][1].close()
    pipes[2][1].send_bytes(pickle.dumps((False, "two")))
    found = distributed._collect([receiver for receiver, _ in pipes], time.monotonic() + 60)
    died = (False, "died without a word (killed, or out of memory?)")
    assert found == {0: (True, "zero"), 1: died, 2: (False, "two")}
    assert len(waits) <= 3
    assert all(50 < timeout <= 60 for timeout in waits)


def test_what_has_answered_by_the_deadline_is_collected(waits):
    pipes = [multiprocessing.Pipe(duplex=False) for _ in range(2)]
    pipes[1][1].send_bytes(pickle.dumps((True, "one")))
    assert distributed._collect([receiver for receiver, _ in pipes], time.monotonic() - 1) == {
        1: (True, "one")
    }
    assert waits == [0, 0]


def _told(rank, word):
    os.write(1, f"{word} out\n".encode())
    os.write(2, f"{word} error\n".encode())
    return rank, dist.get_world_size(), torch.get_num_threads(), os.environ["GLOO_SOCKET_IFNAME"]


def _raises(rank):
    raise KeyError("some reason")


@pytest.fixture
def as_it_was(monkeypatch, capfd):
    """What the life of a process changes in this one is undone."""
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    before = torch.get_num_threads(), [os.dup(d) for d in (0, 1, 2)], np.random.get_state()  # noqa: NPY002
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before[0])
    np.random.set_state(before[2])  # noqa: NPY002
    for descriptor, kept in enumerate(before[1]):
        os.dup2(kept, descriptor)
        os.close(kept)


@pytest.mark.parametrize(
    ("function", "arguments", "succeeds"), [(_told, ("word",), True), (_raises, (), False)]
)
def test_the_life_of_a_process(tmp_path, as_it_was, function, arguments, succeeds):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    task = cloudpickle.dumps((function, arguments, {"SOME_NAME": "set"}))
    distributed._work(0, 1, str(tmp_path), 60, task, sender)
    assert not dist.is_initialized()
    assert os.environ["SOME_NAME"] == "set"
    succeeded, answer = pickle.loads(receiver.recv_bytes())
    assert succeeded == succeeds
    if succeeds:
        assert answer == (0, 1, 1, "lo0" if sys.platform == "darwin" else "lo")
        assert distributed._tail(tmp_path / "0.log") == "\n    | word out\n    | word error"
    else:
        assert "KeyError: 'some reason'" in answer
    assert receiver.poll()  # the other end is closed
    with pytest.raises(EOFError):
        receiver.recv_bytes()


def test_of_a_log_the_last_20_lines_are_told(tmp_path):
    log = tmp_path / "0.log"
    assert distributed._tail(log) == ""
    log.write_text("".join(f"{i}\n" for i in range(30)))
    assert distributed._tail(log).split("\n    | ") == ["", *map(str, range(10, 30))]


def test_workers_are_two_have_two_minutes_and_begin_as_the_system_allows():
    parameters = inspect.signature(run_workers).parameters
    assert (parameters["world_size"].default, parameters["timeout"].default) == (2, 120)
    assert [p.kind for p in parameters.values()] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2 + [
        inspect.Parameter.KEYWORD_ONLY
    ] * 2
    assert ("forkserver" if sys.platform == "linux" else "spawn") == distributed._START
