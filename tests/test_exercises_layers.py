"""The exercises of chapters 4 to 9: right solutions pass, every listed mistake is recognised as itself."""

import pytest
import torch

from normtut import core, exercises

NAMES = (
    "normalize_over",
    "ghost_batch_norm",
    "batch_norm",
    "running_stats",
    "fold_batch_norm",
    "layer_norm",
    "rms_norm",
    "instance_norm",
    "group_norm",
    "adain",
    "merge",
)
MISTAKES = [(name, text) for name in NAMES for text in exercises._EXERCISES[name].mistakes]


def _channels(v):
    return v[:, None, None]


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
    "running_stats": lambda m, v, x, a: (
        m + a * (x.mean((0, 2, 3)) - m),
        v + a * (x.transpose(0, 1).flatten(1).var(1) - v),
    ),
    "fold_batch_norm": lambda w, b, m, v, g, beta, eps: (
        torch.einsum("o,oihw->oihw", g / (v + eps) ** 0.5, w),
        (b - m) / (v + eps) ** 0.5 * g + beta,
    ),
    "layer_norm": lambda x, w, b, eps: torch.nn.functional.layer_norm(x, w.shape, w, b, eps),
    "rms_norm": lambda x, w, eps: w * x * ((x * x).mean(-1, keepdim=True) + eps) ** -0.5,
    "instance_norm": lambda x, eps: core.normalize(x, *core.moments(x, (2, 3), eps=eps)),
    "group_norm": lambda x, g, eps: torch.cat(
        [core.normalize(c, *core.moments(c, (1, 2, 3), eps=eps)) for c in x.chunk(g, 1)], 1
    ),
    "adain": lambda c, s, eps: core.denormalize(
        core.normalize(c, *core.moments(c, (2, 3), eps=eps)), *core.moments(s, (2, 3), eps=eps)
    ),
    "merge": lambda n, m, m2: (
        n.sum(),
        (n.double() @ m) / n.sum(),
        m2.sum(0) + n.double() @ m**2 - (n.double() @ m) ** 2 / n.sum(),
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_right_solutions_pass(name, capsys):
    assert exercises.check(name, SOLUTIONS[name]), capsys.readouterr().out


@pytest.mark.parametrize(("name", "text"), MISTAKES, ids=lambda v: v[:24])
def test_each_mistake_is_called_by_its_name(name, text, capsys):
    assert not exercises.check(name, exercises._EXERCISES[name].mistakes[text])
    assert f"It looks as if you {text}." in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_the_task_names_a_function_to_write(name, capsys):
    assert not exercises.check(name, lambda *args: torch.zeros(1))
    assert "The task: " in capsys.readouterr().out
