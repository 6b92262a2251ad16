"""Every exercise accepts its reference, recognises each known mistake, and survives nonsense."""

import numpy as np
import pytest
import torch

from normtut import exercises, images
from normtut.exercises import _EXERCISES, check

MISTAKES = [(name, said) for name in _EXERCISES for said in _EXERCISES[name].mistakes]


@pytest.mark.parametrize("name", _EXERCISES)
def test_reference_passes(name, capsys):
    assert check(name, _EXERCISES[name].reference)
    assert capsys.readouterr().out.startswith(f"✓ {name}: all ")


@pytest.mark.parametrize(("name", "said"), MISTAKES)
def test_each_known_mistake_is_recognised_by_its_own_sentence(name, said, capsys):
    assert not check(name, _EXERCISES[name].mistakes[said])
    out = capsys.readouterr().out
    assert out.startswith(f"✗ {name}: case ")
    assert f"It looks as if you {said}." in out


@pytest.mark.parametrize("name", _EXERCISES)
def test_an_unknown_mistake_gets_the_task_and_the_arguments(name, capsys):
    assert not check(name, lambda *args: None)
    out = capsys.readouterr().out
    assert _EXERCISES[name].task in out
    assert "The arguments were " in out


@pytest.mark.parametrize("name", _EXERCISES)
def test_an_exception_is_reported_not_raised(name, capsys):
    def broken(*args):
        raise ZeroDivisionError("oops")

    assert not check(name, broken)
    assert "raised ZeroDivisionError: oops" in capsys.readouterr().out


def test_changing_the_input_is_noticed(capsys):
    def in_place(x, mean, std):
        return x.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))

    assert not check("normalize", in_place)
    assert "changes its input in place" in capsys.readouterr().out


def test_changing_an_array_is_noticed(capsys):
    def in_place(picture, mean, std):
        picture[:] = picture[..., ::-1].copy()
        return _EXERCISES["from_opencv"].reference(picture[..., ::-1].copy(), mean, std)

    assert not check("from_opencv", in_place)
    assert "changes its input in place" in capsys.readouterr().out


def test_changing_the_input_is_not_called_another_mistake(capsys):
    assert not check("to_uint8", lambda x: x.mul_(255).round_().clamp_(0, 255).byte())
    out = capsys.readouterr().out
    assert "changes its input in place" in out
    assert "It looks as if" not in out


@pytest.mark.parametrize(
    "change", [lambda b: b[0].zero_(), lambda b: b.pop(), lambda b: b.append(b[0].float())]
)
def test_changing_a_list_or_what_is_in_it_is_noticed(change, capsys):
    def in_place(batches):
        std = _EXERCISES["dataset_std"].reference(batches)
        change(batches)
        return std

    assert not check("dataset_std", in_place)
    assert "changes its input in place" in capsys.readouterr().out


def test_a_changed_dtype_in_a_list_is_noticed(capsys):
    def in_place(batches):
        std = _EXERCISES["dataset_std"].reference(batches)
        batches[0] = batches[0].float()
        return std

    assert not check("dataset_std", in_place)
    assert "changes its input in place" in capsys.readouterr().out


def test_a_result_on_another_device_is_reported_not_raised(capsys):
    assert not check("normalize", lambda x, m, s: torch.empty_like(x, device="meta"))
    assert "should return a tensor on cpu, got meta." in capsys.readouterr().out


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
