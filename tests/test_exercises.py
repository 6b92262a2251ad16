"""Every exercise accepts its reference, recognises each known mistake, and survives nonsense."""

import asyncio
import random
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from normtut import exercises, images
from normtut.book.exercises.engine import Exercise, attempted
from normtut.exercises import _EXERCISES, check


def _out(capsys):
    """What was printed, without the line breaks within a sentence."""
    return re.sub(r"\s+", " ", capsys.readouterr().out)


MISTAKES = [(name, said) for name in _EXERCISES for said in _EXERCISES[name].mistakes]


@pytest.mark.parametrize("name", _EXERCISES)
def test_reference_passes(name, capsys):
    assert check(name, _EXERCISES[name].reference)
    assert _out(capsys).startswith(f"✓ {name}: all ")


@pytest.mark.parametrize(("name", "said"), MISTAKES)
def test_each_known_mistake_is_recognised_by_its_own_sentence(name, said, capsys):
    assert not check(name, _EXERCISES[name].mistakes[said])
    out = _out(capsys)
    assert out.startswith(f"✗ {name}: case ")
    assert f"It looks as if you {said}." in out


@pytest.mark.parametrize("name", _EXERCISES)
def test_an_unknown_mistake_gets_the_task_and_the_arguments(name, capsys):
    assert not check(name, lambda *args: None)
    out = _out(capsys)
    assert _EXERCISES[name].task in out
    assert _EXERCISES[name].signature in out
    assert "In this case " in out


@pytest.mark.parametrize("name", _EXERCISES)
def test_an_exception_is_reported_not_raised(name, capsys):
    def broken(*args):
        raise ZeroDivisionError("oops")

    assert not check(name, broken)
    assert "raised ZeroDivisionError: oops" in _out(capsys)


def test_changing_the_input_is_noticed(capsys):
    def in_place(x, mean, std):
        return x.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))

    assert not check("normalize", in_place)
    assert "changes its input in place" in _out(capsys)


def test_changing_an_array_is_noticed(capsys):
    def in_place(picture, mean, std):
        picture[:] = picture[..., ::-1].copy()
        return _EXERCISES["from_opencv"].reference(picture[..., ::-1].copy(), mean, std)

    assert not check("from_opencv", in_place)
    assert "changes its input in place" in _out(capsys)


def test_changing_the_input_is_not_called_another_mistake(capsys):
    assert not check("to_uint8", lambda x: x.mul_(255).round_().clamp_(0, 255).byte())
    out = _out(capsys)
    assert "changes its input in place" in out
    assert "It looks as if" not in out


def _trial(reference, *cases, **kwargs):
    """An exercise made up for a test."""
    names = ", ".join("abc"[: len(cases[0])])
    return Exercise("Trial", f"trial({names})", "is tried", reference, lambda g: iter(cases), **kwargs)


@pytest.mark.parametrize(
    "change",
    [
        lambda b: b[0].zero_(),
        lambda b: b.pop(),
        lambda b: b.append(b[0].float()),
        lambda b: b.__setitem__(0, b[0].float()),
    ],
)
def test_changing_a_list_or_what_is_in_it_is_noticed(change):
    def in_place(batches):
        total = sum(b.sum() for b in batches)
        change(batches)
        return total

    trial = _trial(lambda bs: sum(b.sum() for b in bs), ([torch.ones(2).double(), torch.ones(3).double()],))
    assert attempted(trial, lambda bs: sum(b.sum() for b in bs), None)[0]
    right, text = attempted(trial, in_place, None)
    assert not right
    assert "changes its input in place" in text


def test_a_result_on_another_device_is_reported_not_raised(capsys):
    assert not check("normalize", lambda x, m, s: torch.empty_like(x, device="meta"))
    assert "should return a tensor on cpu, got meta." in _out(capsys)


def test_constants_of_imagenet_in_the_solution_are_noticed():
    from_opencv = _EXERCISES["from_opencv"].reference
    assert not check("from_opencv", lambda picture, mean, std: from_opencv(picture, *images.IMAGENET))


def test_opencv_solution_in_numpy_is_accepted(capsys):
    def from_opencv(picture, mean, std):
        z = (picture[..., ::-1] / 255 - np.array(mean)) / np.array(std)
        return torch.from_numpy(z.transpose(2, 0, 1).astype(np.float32))

    assert check("from_opencv", from_opencv)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(KeyError, match="inverse_stats"):
        check("nope", lambda: None)


def test_names_are_the_exercises():
    assert exercises.names() == list(_EXERCISES)


def test_without_a_function_the_task_is_printed(capsys):
    assert not check("adain")
    exercise = _EXERCISES["adain"]
    assert _out(capsys) == f"adain: {exercise.title} {exercise.statement} "


def test_the_list_of_tasks_has_what_a_teacher_chooses_by():
    tasks = exercises.tasks()
    assert [t.name for t in tasks] == exercises.names()
    assert len({t.title for t in tasks}) == len(tasks)
    for task in tasks:
        assert re.fullmatch(r"\w+\(\w+(, \w+)*\)", task.signature)
        assert task.task[0].islower()
        assert not task.task.endswith(".")


@pytest.mark.parametrize("name", _EXERCISES)
def test_signatures_name_every_argument(name):
    parameters = _EXERCISES[name].signature.count(",") + 1
    for args in _EXERCISES[name].cases(torch.Generator().manual_seed(0)):
        assert len(args) == parameters


def test_few_numbers_are_shown_and_of_many_the_worst(capsys):
    assert not check("merge", lambda n, m, m2: (n.sum(), m.mean(0) + 1, m2.sum(0)))
    out = _out(capsys)
    assert "In this case counts = tensor([3, 5]), means = tensor([[" in out
    assert re.search(r"Expected \[[\d.-]+(, [\d.-]+){3}\], got \[", out)

    def off(z, mean, std):
        x = _EXERCISES["inverse"].reference(z, mean, std)
        x[1, 2, 3] += 5
        return x

    assert not check("inverse", off)
    out = _out(capsys)
    expected, got = map(float, re.search(r"At \[1, 2, 3\]: expected (\S+), got (\S+)\. ", out).groups())
    assert got - expected == pytest.approx(5, abs=1e-4)
    assert "z = a torch.float32 tensor of shape (3, 4, 5), mean = tensor([" in out


def test_numbers_that_look_alike_are_shown_with_all_their_digits(capsys):
    assert not check(
        "merge", lambda n, m, m2: (n.sum(), *(v + 1e-4 for v in _EXERCISES["merge"].reference(n, m, m2)[1:]))
    )
    expected, got = re.search(r"Expected \[([\d.-]+),.* got \[([\d.-]+),", _out(capsys)).groups()
    assert float(got) - float(expected) == pytest.approx(1e-4)


def test_the_result_that_differs_is_the_one_shown(capsys):
    assert not check("merge", lambda n, m, m2: (*_EXERCISES["merge"].reference(n, m, m2)[:2], m2[0] * 0 - 7))
    assert "got [-7, -7, -7, -7]." in _out(capsys)


def test_an_exception_is_located(capsys):
    def broken(x, mean, std):
        y = x - mean.view(-1, 1, 1)
        return y / std[:99, None, None, None, None].expand(4)

    assert not check("normalize", broken)
    assert " in line " in (out := _out(capsys))
    assert "of broken: return y / std[:99" in out


def test_a_wrong_number_of_parameters_is_met_by_the_signature(capsys):
    assert not check("normalize", lambda x: x)
    out = _out(capsys)
    assert "raised TypeError" in out
    assert "Write normalize(x, mean, std), which removes mean and std" in out


@pytest.mark.parametrize("attempt", [torch.ones(2), 3, "inverse", [1, 2]], ids=str)
def test_a_result_instead_of_a_function_is_explained(attempt, capsys):
    assert not check("inverse", attempt)
    assert "must be the function itself, not called; got " in _out(capsys)


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text for you")


class Liar(torch.Tensor):
    """Every operation on it gives what would make it right."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return torch.zeros((), dtype=torch.float64)


def _raising(error):
    def attempt(*args):
        raise error

    return attempt


class Odd:
    """Raises whatever is asked of it."""

    def __getattribute__(self, name):
        raise RuntimeError("leave me alone")

    def __repr__(self):
        raise RuntimeError("leave me alone")


class Pretender:
    """Claims to be a tensor."""

    __class__ = torch.Tensor


class Agreeable:
    """Differs from nothing."""

    is_nested, layout, device = False, torch.strided, torch.device("cpu")

    def __init__(self, like):
        self.shape, self.dtype = like.shape, like.dtype

    def double(self):
        return self

    def __sub__(self, other):
        return torch.zeros(self.shape, dtype=torch.float64)

    def __eq__(self, other):
        return torch.ones(self.shape, dtype=torch.bool)

    def isnan(self):
        return torch.zeros(self.shape, dtype=torch.bool)


class Detached(torch.Tensor):
    """A method of its own gives what differs from nothing."""

    def detach(self):
        return Agreeable(self)

    def double(self):
        return Agreeable(self)


class Dispatched(torch.Tensor):
    """Below torch's functions, every operation gives zeros."""

    @staticmethod
    def __new__(cls, like):
        return torch.Tensor._make_wrapper_subclass(cls, like.shape, dtype=like.dtype)

    def __init__(self, like):
        pass

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        same = "detach" in str(func) or "alias" in str(func) or "to" in str(func)
        return args[0] if same else torch.zeros(args[0].shape, dtype=torch.float64)


class ExitsIfShown:
    def __repr__(self):
        raise SystemExit


class ExitsIfMeasured(list):
    def __len__(self):
        raise SystemExit


class TextThatExits(str):
    def __len__(self):
        raise SystemExit


class Untraceable(Exception):
    __traceback__ = property(lambda self: 3)


def _deep():
    """A list of 12³⁰ lists, of which repr would never end."""
    nested = []
    for _ in range(30):
        nested = [nested] * 12
    return nested


HOSTILE = {
    "sparse": lambda x, m, s: x.to_sparse(),
    "nested": lambda x, m, s: torch.nested.nested_tensor([x, x]),
    "quantized": lambda x, m, s: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),
    "subclass": lambda x, m, s: x.as_subclass(Liar),
    "huge": lambda x, m, s: 10**400,
    "text": lambda x, m, s: "x" * 10**6,
    "odd": lambda x, m, s: Odd(),
    "pretender": lambda x, m, s: Pretender(),
    "class": lambda x, m, s: torch.Tensor,
    "nothing": lambda x, m, s: None,
    "lists": lambda x, m, s: x.tolist(),
    "unprintable": _raising(Unprintable()),
    "exit": _raising(SystemExit("bye")),
    "cancelled": _raising(asyncio.CancelledError()),
    "stop": _raising(StopIteration()),
    "recursion": lambda *args: HOSTILE["recursion"](*args),
    "a frame of ours": lambda *args: sys._getframe(1).f_locals["expected"],
    "methods of its own": lambda x, m, s: x.as_subclass(Detached),
    "a dispatch of its own": lambda x, m, s: Dispatched(x),
    "exits if shown": lambda *args: ExitsIfShown(),
    "exits if measured": lambda *args: ExitsIfMeasured(),
    "a text that exits": lambda *args: TextThatExits("x"),
    "untraceable": _raising(Untraceable()),
    "a long exception": _raising(ValueError("x" * 10**7)),
    "a long list": lambda *args: list(range(10**6)),
    "a deep list": lambda *args: _deep(),
    "a low limit": lambda x, *args: (sys.setrecursionlimit(150), x)[1],
}


@pytest.mark.filterwarnings("ignore")  # torch warns of nested and quantized tensors
@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_that_a_function_does_gets_past(kind, capsys):
    assert not check("normalize", HOSTILE[kind])
    out = _out(capsys)
    assert out.startswith("✗ normalize: case 1 of 4 ")
    assert "Write normalize(x, mean, std)" in out
    assert len(out) < 1500


class Zeros(torch.overrides.TorchFunctionMode):
    """Whatever is computed is zero."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result * 0 if type(result) is torch.Tensor and result.dtype.is_floating_point else result


class ZerosBelow(torch.utils._python_dispatch.TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result.zero_() if type(result) is torch.Tensor and result.dtype.is_floating_point else result


@pytest.mark.parametrize("mode", [Zeros, ZerosBelow])
def test_a_mode_that_is_not_left_is_left(mode, capsys):
    """In it the right results would be zeros too."""
    left = []

    def attempt(z, mean, std):
        left.append(mode())
        left[-1].__enter__()
        return torch.zeros_like(z)

    assert not check("inverse", attempt)
    assert len(left) == 1
    assert torch.ones(2).sum() == 2


def test_a_huge_count_is_no_crash(capsys):
    assert not check("merge", lambda n, m, m2: (10**400, m.mean(0), m2.sum(0)))
    assert "cannot be compared" in _out(capsys)


def test_ctrl_c_is_the_users(capsys):
    with pytest.raises(KeyboardInterrupt):
        check("normalize", _raising(KeyboardInterrupt()))

    class Result:
        def __repr__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("normalize", lambda x, mean, std: Result())


def test_an_error_that_lies_about_where_it_was_raised(capsys):
    class Liar(Exception):
        __traceback__ = property(lambda self: "nowhere", lambda self, where: None)

    assert not check("normalize", _raising(Liar("so there")))
    assert "Liar: so there" in _out(capsys)


@pytest.mark.parametrize(("right", "wrong"), [(True, 1), (False, None), (None, 0), ("gray", "grey")])
def test_yes_no_nothing_and_words_are_exactly_that(right, wrong):
    task = Exercise("A fact", "fact(x)", "says it", lambda x: right, lambda seeded: iter([(1.0,)]))
    assert attempted(task, lambda x: right, None)[0]
    said = attempted(task, lambda x: wrong, None)[1]
    assert f"should return {right!r}, got {wrong}." in said


def test_a_list_that_has_become_a_tuple_has_changed():
    task = Exercise("A sum", "total(x)", "adds", lambda x: sum(x[0]), lambda seeded: iter([([[1, 2]],)]))

    def changing(x):
        x[0] = tuple(x[0])
        return 3

    assert "changes its input in place" in attempted(task, changing, None)[1]


def _others():
    numbers = np.random.get_state()[1].tolist()  # noqa: NPY002
    return numbers, random.getstate(), sys.getrecursionlimit(), sys.stderr


def test_settings_and_random_numbers_are_as_before(capsys):
    def vandal(x, mean, std):
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_default_device("meta")
        torch.autocast("cpu").__enter__()
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        sys.setrecursionlimit(500)
        sys.stdout = sys.stderr = None
        return x

    before, stdout = torch.get_rng_state(), sys.stdout
    others = _others()
    assert not check("normalize", vandal)
    assert _others() == others
    assert torch.get_default_dtype() == torch.float32
    assert not torch.is_autocast_enabled("cpu")
    assert torch.is_grad_enabled()
    assert torch.ones(1).device.type == "cpu"
    assert torch.equal(torch.get_rng_state(), before)
    assert sys.stdout is stdout
    assert "✗ normalize" in _out(capsys)


def test_the_callers_settings_change_nothing_and_stay(capsys):
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_grad_enabled(False)
    try:
        for name in exercises.names():
            assert check(name, _EXERCISES[name].reference), _out(capsys)
        assert torch.get_default_dtype() == torch.float64
        assert torch.get_default_device().type == "meta"
        assert not torch.is_grad_enabled()
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)


def test_strict_raises_what_is_printed_otherwise(capsys):
    def wrong(z, mean, std):
        return (z + mean.view(-1, 1, 1)) * std.view(-1, 1, 1)

    assert not check("inverse", wrong)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 92
    with pytest.raises(AssertionError) as caught:
        check("inverse", wrong, strict=True)
    assert str(caught.value) + "\n" == printed
    assert _out(capsys) == ""
    with pytest.raises(AssertionError, match=r"^inverse: Put statistics back"):
        check("inverse", strict=True)
    assert check("inverse", _EXERCISES["inverse"].reference, strict=True)


def _endless(*args):
    while True:
        pass


def _stubborn(*args):
    """Swallows what ends it, but ends at last."""
    end = time.monotonic() + 0.35
    while time.monotonic() < end:
        try:
            while time.monotonic() < end:
                pass
        except BaseException:
            pass
    return _EXERCISES["inverse"].reference(*args)


def _again_and_again(*args):
    """Tries until it works, which it never does, and catches everything."""
    while True:
        try:
            _endless()
        except:  # noqa: E722
            continue


@pytest.mark.parametrize("attempt", [_endless, _stubborn, _again_and_again])
def test_a_loop_that_does_not_end_is_ended_with_a_sentence(attempt, capsys):
    handler, tracer, started = signal.getsignal(signal.SIGALRM), sys.gettrace(), time.monotonic()
    # The timer that pytest-timeout has set meanwhile goes on.
    left = signal.getitimer(signal.ITIMER_REAL)[0]
    assert not check("inverse", attempt, seconds=0.2)
    assert time.monotonic() - started < 5
    assert "case 1 of 4 was not done after 0.2 s: is there a loop that does not end?" in _out(capsys)
    assert signal.getsignal(signal.SIGALRM) is handler
    assert sys.gettrace() is tracer
    assert signal.getitimer(signal.ITIMER_REAL)[0] == pytest.approx(left, abs=5)


def test_within_the_time_nothing_is_different(capsys):
    assert check("inverse", _EXERCISES["inverse"].reference, seconds=30)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_seconds_that_are_not_positive_are_refused(seconds):
    with pytest.raises(ValueError, match=f"seconds must be positive, got {seconds}"):
        check("inverse", _endless, seconds=seconds)


def test_seconds_outside_the_main_thread_are_refused():
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(check, "inverse", _endless, seconds=0.1)
        with pytest.raises(ValueError, match="needs the main thread"):
            future.result()


# What beginners write, each with a sentence of its own.


def _says(name, attempt, sentence, capsys):
    assert not check(name, attempt)
    assert f"It looks as if you {sentence}" in (out := _out(capsys)), out


def _keep(dim):
    return {"dim": dim, "keepdim": True}


STD_PLUS_EPS = {
    "normalize_over": lambda x, dim, eps: (x - x.mean(**_keep(dim))) / (x.std(**_keep(dim)) + eps),
    "batch_norm": lambda x, w, b, eps: (
        (x - x.mean(**_keep((0, 2, 3)))) / (x.std(**_keep((0, 2, 3))) + eps) * w.view(-1, 1, 1)
        + b.view(-1, 1, 1)
    ),
    "layer_norm": lambda x, w, b, eps: (x - x.mean(**_keep(-1))) / (x.std(**_keep(-1)) + eps) * w + b,
    "instance_norm": lambda x, eps: (x - x.mean(**_keep((2, 3)))) / (x.std(**_keep((2, 3))) + eps),
    "group_norm": lambda x, groups, eps: torch.cat(
        [(g - g.mean(**_keep((1, 2, 3)))) / (g.std(**_keep((1, 2, 3))) + eps) for g in x.chunk(groups, 1)],
        1,
    ),
    "ghost_batch_norm": lambda x, size, eps: torch.cat(
        [(g - g.mean(**_keep((0, 2, 3)))) / (g.std(**_keep((0, 2, 3))) + eps) for g in x.split(size)]
    ),
    "adain": lambda c, s, eps: (
        (c - c.mean(**_keep((2, 3)))) / (c.std(**_keep((2, 3))) + eps) * (s.std(**_keep((2, 3))) + eps)
        + s.mean(**_keep((2, 3)))
    ),
}


@pytest.mark.parametrize("name", STD_PLUS_EPS)
def test_the_commonest_line_of_a_beginner_is_recognised(name, capsys):
    _says(name, STD_PLUS_EPS[name], "divided by x.std(…) + eps", capsys)


def test_eps_under_one_root_is_recognised(capsys):
    def adain(c, s, eps):
        sc = (c.var((2, 3), correction=0, keepdim=True) + eps).sqrt()
        return (c - c.mean((2, 3), True)) / sc * s.std((2, 3), correction=0, keepdim=True) + s.mean(
            (2, 3), True
        )

    _says("adain", adain, "used eps for the content only", capsys)


def test_std_of_a_data_set_by_torchs_default_is_recognised(capsys):
    def averaged(batches):
        return torch.stack([x.std((0, 2, 3)) for x in batches]).mean(0)

    _says("dataset_std", averaged, "averaged the stds of the batches, and divided by m − 1", capsys)


def test_the_variance_of_a_data_set_is_recognised(capsys):
    reference = _EXERCISES["dataset_std"].reference
    _says("dataset_std", lambda bs: reference(bs).square(), "returned the variance", capsys)


def test_keeping_all_batches_is_noticed(capsys):
    def at_once(batches):
        return torch.cat(list(batches)).std((0, 2, 3), correction=0)

    _says("dataset_std", at_once, "kept the batches, as torch.cat does", capsys)
    assert not check("dataset_std", lambda bs: torch.cat(bs).std((0, 2, 3)))
    assert "gives one at a time (for x in batches)" in _out(capsys)


def test_going_through_the_batches_twice_is_allowed(capsys):
    def twice(batches):
        n = sum(x[:, 0].numel() for x in batches)
        mean = sum(x.sum((0, 2, 3)) for x in batches) / n
        return (sum((x - mean[:, None, None]).square().sum((0, 2, 3)) for x in batches) / n).sqrt()

    assert check("dataset_std", twice), _out(capsys)


@pytest.mark.parametrize(
    ("dim", "what"),
    [((1, 2), "each image's own mean and std"), ((0, 1, 2), "the mean and std of all pixels")],
)
@pytest.mark.parametrize("correction", [0, 1])
def test_an_images_own_statistics_are_recognised(dim, what, correction, capsys):
    def own(x, mean, std):
        return (x - x.mean(dim, keepdim=True)) / x.std(dim, correction=correction, keepdim=True)

    _says("normalize", own, f"used {what}", capsys)


def test_that_opencv_gets_tuples_is_said(capsys):
    assert not check("from_opencv", lambda picture, mean, std: mean.view(3, 1, 1))
    out = _out(capsys)
    assert "as are mean and std: tuples of three floats" in out
    assert "mean = (0.485, 0.456, 0.406)" in out


def test_an_empty_part_is_shown_and_recognised(capsys):
    def merge(n, m, m2):
        n = n[:, None]
        mean = (n * m).sum(0) / n.sum()
        var = (n * (m2 / n + (m - mean) ** 2)).sum(0) / n.sum()
        return n.sum(), mean, var * n.sum()

    _says("merge", merge, "divided 0 by 0: a part may be empty", capsys)
    assert not check("merge", lambda n, m, m2: (n.sum(), ((n[:, None] * m) / n[:, None]).mean(0) * 0, m2[0]))
