"""The exercises after chapter 3: right solutions pass, every listed mistake is recognised as itself."""

import re

import pytest
import torch

from normtut import core, exercises

NAMES = (
    "normalize_over",
    "ghost_batch_norm",
    "batch_norm",
    "batch_norm_backward",
    "running_stats",
    "fold_batch_norm",
    "layer_norm",
    "layer_norm_2d",
    "rms_norm",
    "instance_norm",
    "correction_of",
    "group_norm",
    "adain",
    "merge",
    "spectral_grad",
    "dead_biases",
)


def _out(capsys):
    """What was printed, without the line breaks within a sentence."""
    return re.sub(r"\s+", " ", capsys.readouterr().out)


MISTAKES = [(name, text) for name in NAMES for text in exercises._EXERCISES[name].mistakes]


def _channels(v):
    return v[:, None, None]


def _spectral_grad(w, g, u, s, vt):
    """Miyato et al. 2018, equation (10)."""
    return (g - (g * w / s[0]).sum() * torch.outer(u[:, 0], vt[0])) / s[0]


def _batch_norm_backward(grad, x, eps):
    """Ioffe & Szegedy 2015, the derivatives after algorithm 1, with γ = 1."""
    dim, m = (0, 2, 3), x[:, 0].numel()
    centred = x - x.mean(dim, keepdim=True)
    var = x.var(dim, correction=0, keepdim=True) + eps
    of_var = (grad * centred).sum(dim, keepdim=True) * -0.5 * var**-1.5
    of_mean = -grad.sum(dim, keepdim=True) * var**-0.5 - of_var * 2 * centred.mean(dim, keepdim=True)
    return grad * var**-0.5 + of_var * 2 * centred / m + of_mean / m


# Written here once more, from the papers: the references must not be the only ones of their opinion.
SOLUTIONS = {
    "normalize_over": lambda x, dim, eps: (
        (x - x.mean(dim, keepdim=True)) / (x.var(dim, correction=0, keepdim=True) + eps) ** 0.5
    ),
    "ghost_batch_norm": lambda x, size, eps: torch.cat(
        [torch.nn.functional.batch_norm(part, None, None, training=True, eps=eps) for part in x.split(size)]
    ),
    "batch_norm": lambda x, w, b, eps: (
        (x - x.mean((0, 2, 3), keepdim=True))
        / (x.var((0, 2, 3), correction=0, keepdim=True) + eps) ** 0.5
        * _channels(w)
        + _channels(b)
    ),
    "batch_norm_backward": _batch_norm_backward,
    "running_stats": lambda m, v, x, a: (
        m + a * (x.mean((0, 2, 3)) - m),
        v + a * (x.transpose(0, 1).flatten(1).var(1) - v),
    ),
    "fold_batch_norm": lambda w, b, m, v, g, beta, eps: (
        torch.einsum("o,oihw->oihw", g / (v + eps) ** 0.5, w),
        (b - m) / (v + eps) ** 0.5 * g + beta,
    ),
    "layer_norm": lambda x, w, b, eps: torch.nn.functional.layer_norm(x, w.shape, w, b, eps),
    "layer_norm_2d": lambda x, w, b, eps: torch.nn.functional.layer_norm(
        x.permute(0, 2, 3, 1), w.shape, w, b, eps
    ).permute(0, 3, 1, 2),
    "rms_norm": lambda x, w, eps: w * x * ((x * x).mean(-1, keepdim=True) + eps) ** -0.5,
    "instance_norm": lambda x, eps: core.normalize(x, *core.moments(x, (2, 3), eps=eps)),
    # Its squares sum to m if the biased variance was used, to m − 1 if not, but for eps.
    "correction_of": lambda z: round(z[0, 0].numel() - z.square().sum((2, 3)).mean().item()),
    "group_norm": lambda x, g, eps: torch.cat(
        [core.normalize(c, *core.moments(c, (1, 2, 3), eps=eps)) for c in x.chunk(g, 1)], 1
    ),
    "adain": lambda c, s, eps: core.denormalize(
        core.normalize(c, *core.moments(c, (2, 3), eps=eps)), *core.moments(s, (2, 3), eps=eps)
    ),
    "spectral_grad": lambda w, g: _spectral_grad(w, g, *torch.linalg.svd(w)),
    "dead_biases": lambda model: sum(
        0 if model[i].bias is None else len(model[i].bias)
        for i in range(len(model) - 1)
        if isinstance(model[i], torch.nn.Conv2d)
        and isinstance(model[i + 1], torch.nn.BatchNorm2d | torch.nn.InstanceNorm2d)
    ),
    "merge": lambda n, m, m2: (
        n.sum(),
        (n.double() @ m) / n.sum(),
        m2.sum(0) + sum(k * (v - (n.double() @ m) / n.sum()) ** 2 for k, v in zip(n, m, strict=True)),
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_right_solutions_pass(name, capsys):
    assert exercises.check(name, SOLUTIONS[name]), _out(capsys)


@pytest.mark.parametrize(("name", "text"), MISTAKES, ids=lambda v: v[:24])
def test_each_mistake_is_called_by_its_name(name, text, capsys):
    assert not exercises.check(name, exercises._EXERCISES[name].mistakes[text])
    assert f"It looks as if you {text}." in _out(capsys)


@pytest.mark.parametrize("name", NAMES)
def test_the_task_names_a_function_to_write(name, capsys):
    assert not exercises.check(name, lambda *args: torch.zeros(1))
    assert exercises._EXERCISES[name].statement in _out(capsys)


# Each right but for one argument, which it takes for the value of the first case.
IGNORING = {
    "running_stats": lambda m, v, x, a: SOLUTIONS["running_stats"](m, v, x, 0.1),
    "group_norm": lambda x, g, eps: SOLUTIONS["group_norm"](x, 3, eps),
    "group_norm, by size": lambda x, g, eps: SOLUTIONS["group_norm"](x, x.shape[1] // 3, eps),
    "ghost_batch_norm": lambda x, size, eps: torch.cat(
        [torch.nn.functional.batch_norm(p, None, None, training=True, eps=0.1) for p in x.split(size)]
    ),
}


@pytest.mark.parametrize("name", IGNORING)
def test_ignoring_an_argument_is_noticed(name):
    assert not exercises.check(name.split(",")[0], IGNORING[name])


@pytest.mark.parametrize("kind", [torch.Tensor.double, torch.Tensor.int, int, float], ids=str)
def test_a_count_is_compared_by_its_value(kind, capsys):
    def merge(n, m, m2):
        count, *rest = SOLUTIONS["merge"](n, m, m2)
        return kind(count), *rest

    assert exercises.check("merge", merge), _out(capsys)


@pytest.mark.parametrize("wrong", [lambda n: n + 1, lambda n: int(n) + 1, lambda n: n[None], lambda n: "8"])
def test_a_wrong_count_is_noticed(wrong, capsys):
    def merge(n, m, m2):
        count, *rest = SOLUTIONS["merge"](n, m, m2)
        return wrong(count), *rest

    assert not exercises.check("merge", merge)
    assert "case 1 of 4, result 1 of 3 " in _out(capsys)


def test_a_wrong_dtype_of_a_mean_is_noticed_and_says_which_result(capsys):
    def merge(n, m, m2):
        count, mean, total = SOLUTIONS["merge"](n, m, m2)
        return count, mean.float(), total

    assert not exercises.check("merge", merge)
    assert "result 2 of 3 should return torch.float64, got torch.float32." in _out(capsys)


def test_the_variance_before_the_mean_is_recognised(capsys):
    assert not exercises.check("running_stats", lambda *args: SOLUTIONS["running_stats"](*args)[::-1])
    assert "It looks as if you returned the variance before the mean." in _out(capsys)
