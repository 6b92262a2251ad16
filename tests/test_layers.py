"""The layers against their namesakes in torch.nn: the same constructor, state, behaviour and errors."""

import copy
import inspect
import io
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torchvision
from torch import nn
from torch.nn.utils import parametrize

from normtut import layers, reparam

X2, X3, X4, X5 = (3, 6), (3, 6, 4), (3, 6, 4, 5), (3, 6, 4, 2, 3)
# class, arguments, shape of an input
LAYERS = [
    ("BatchNorm1d", {"num_features": 6}, X2),
    ("BatchNorm1d", {"num_features": 6, "momentum": None}, X3),
    ("BatchNorm2d", {"num_features": 6, "eps": 0.1, "momentum": 0.3}, X4),
    ("BatchNorm2d", {"num_features": 6, "affine": False}, X4),
    ("BatchNorm2d", {"num_features": 6, "track_running_stats": False}, X4),
    ("BatchNorm3d", {"num_features": 6}, X5),
    ("InstanceNorm1d", {"num_features": 6}, X3),
    ("InstanceNorm1d", {"num_features": 6, "affine": True}, X3[1:]),
    ("InstanceNorm2d", {"num_features": 6, "affine": True, "track_running_stats": True}, X4),
    ("InstanceNorm2d", {"num_features": 6, "track_running_stats": True, "momentum": None}, X4[1:]),
    ("InstanceNorm3d", {"num_features": 6, "eps": 0.1}, X5),
    ("LayerNorm", {"normalized_shape": 5}, X4),
    ("LayerNorm", {"normalized_shape": [4, 5], "bias": False}, X4),
    ("LayerNorm", {"normalized_shape": (4, 5), "elementwise_affine": False, "eps": 0.1}, X4),
    ("GroupNorm", {"num_groups": 3, "num_channels": 6}, X4),
    ("GroupNorm", {"num_groups": 1, "num_channels": 6, "affine": False}, X2),
    ("RMSNorm", {"normalized_shape": 5}, X4),
    ("RMSNorm", {"normalized_shape": (4, 5), "eps": 0.1, "elementwise_affine": False}, X4),
]
IDS = [f"{name}-{'-'.join(map(str, list(kw.values())[1:]))}" for name, kw, _ in LAYERS]
every_layer = pytest.mark.parametrize(("name", "kwargs", "shape"), LAYERS, ids=IDS)


def _pair(name, kwargs, dtype=torch.float64):
    """Theirs and ours, with the same parameters, none of them 0 or 1."""
    theirs, ours = (getattr(lib, name)(**kwargs, dtype=dtype) for lib in (nn, layers))
    with torch.no_grad():
        for p in theirs.parameters():
            p.uniform_(0.5, 1.5)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def _step(layer, x):
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y = layer(x)
    (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    return y, x.grad, *(p.grad for p in layer.parameters())


@every_layer
def test_training_and_eval_are_torchs(name, kwargs, shape):
    theirs, ours = _pair(name, kwargs)
    for training in (True, True, False, True):
        theirs.train(training)
        ours.train(training)
        x = 2 * torch.randn(shape, dtype=torch.float64) + 1
        torch.testing.assert_close(_step(ours, x), _step(theirs, x))
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("name", ["LayerNorm", "RMSNorm"])
def test_a_shape_may_be_an_integer_of_any_kind(name):
    for shape in (5, np.int64(5), [5], torch.Size([5])):
        assert getattr(layers, name)(shape).normalized_shape == (5,)
    with pytest.raises(TypeError):
        getattr(layers, name)(2.5)


@every_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_the_same_construction(name, kwargs, shape, dtype):
    theirs, ours = (getattr(lib, name)(**kwargs, dtype=dtype) for lib in (nn, layers))
    assert repr(ours) == repr(theirs) or torch.__version__ < "2.9"  # older ones do not print bias
    for state in ("named_parameters", "named_buffers"):
        a, b = dict(getattr(ours, state)()), dict(getattr(theirs, state)())
        assert list(a) == list(b)
        for key in a:
            assert (a[key].dtype, a[key].shape) == (b[key].dtype, b[key].shape)
            assert torch.equal(a[key], b[key])
    on_meta = getattr(layers, name)(**kwargs, device="meta")
    assert all(t.is_meta for t in on_meta.state_dict().values())


@every_layer
def test_state_dicts_load_strictly_both_ways_and_copies_are_independent(name, kwargs, shape):
    theirs, ours = _pair(name, kwargs)
    x = torch.randn(shape, dtype=torch.float64)
    theirs(x)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    fresh = getattr(nn, name)(**kwargs, dtype=torch.float64)
    fresh.load_state_dict(ours.state_dict(), strict=True)
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), _saved(ours)):
        torch.testing.assert_close(twin.eval()(x), theirs.eval()(x))
        with torch.no_grad():
            for t in twin.state_dict().values():
                t.add_(1)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def _saved(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_a_state_dict_from_before_num_batches_tracked_leaves_the_count_alone():
    """It weighs the next batch where momentum is None."""
    means = []
    for lib in (nn, layers):
        layer = lib.BatchNorm1d(2, momentum=None)
        for _ in range(4):
            layer(torch.randn(8, 2))
        old = {k: v for k, v in layer.state_dict().items() if k != "num_batches_tracked"}
        old["running_mean"] = torch.full((2,), 10.0)
        assert layer.load_state_dict(old).missing_keys == []
        assert layer.num_batches_tracked == 4
        layer(torch.tensor([[-1.0], [1.0]]).expand(2, 2))  # a mean of 0
        means.append(layer.running_mean)
    assert torch.equal(means[1], torch.full((2,), 8.0))
    torch.testing.assert_close(means[1], means[0])


def test_what_is_set_after_construction_is_torchs():
    """A layer may be told to stop tracking, may have lost its count, or one of its statistics."""
    x = 2 * torch.randn(X2, dtype=torch.float64) + 1
    for change in ({"track_running_stats": False}, {"num_batches_tracked": None}):
        for training in (True, False):
            theirs, ours = _pair("BatchNorm1d", {"num_features": 6, "momentum": None})
            _step(theirs, x), _step(ours, x)
            for layer in (theirs.train(training), ours.train(training)):
                for name, value in change.items():
                    setattr(layer, name, value)
            torch.testing.assert_close(_step(ours, x + 5), _step(theirs, x + 5))
            torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    for lost in ("running_mean", "running_var"):
        for layer in _pair("BatchNorm1d", {"num_features": 6}):
            setattr(layer.eval(), lost, None)
            with pytest.raises(RuntimeError, match="running_"):
                layer(x)


@pytest.mark.parametrize(
    ("processes", "training", "shared"),
    [(1, True, False), (2, True, True), (3, True, True), (2, False, False)],
)
def test_processes_share_statistics_in_training_where_there_are_several(
    monkeypatch, processes, training, shared
):
    groups = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda group: groups.append(group) or processes)
    monkeypatch.setattr(layers, "sync_batch_norm", lambda x, *_: x + 1000)
    layer, x = layers.SyncBatchNorm(6, process_group="group").train(training), torch.randn(X2)
    assert torch.equal(layer(x), x + 1000) == shared
    assert set(groups) <= {"group"}


@pytest.mark.parametrize("kind", ["BatchNorm", "InstanceNorm"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("kwargs", [{}, {"affine": True, "track_running_stats": True}, {"affine": False}])
@pytest.mark.parametrize("training", [True, False])
def test_the_same_error_for_every_shape(kind, ndim, kwargs, training):
    for axes in range(7):
        for channels in (2, 3):
            shape = (2, 3, 4, 5, 2, 2)[:axes]
            results = []
            for lib in (nn, layers):
                layer = getattr(lib, f"{kind}{ndim}d")(channels, **kwargs).train(training)
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    try:
                        results.append(layer(torch.zeros(shape)).shape)
                    except Exception as error:
                        results.append(type(error))
            assert results[1] == results[0], (shape, channels)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda lib: lib.GroupNorm(3, 4), "num_channels.* must be divisible by num_groups"),
        (lambda lib: lib.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1)), "more than 1 value per channel"),
        (lambda lib: lib.InstanceNorm1d(3)(torch.zeros(2, 3, 1)), "more than 1 (spatial element|position)"),
        (lambda lib: lib.BatchNorm1d(3)(torch.zeros(2, 3, 4, 5)), "expected 2D or 3D input"),
        (lambda lib: lib.InstanceNorm2d(3, affine=True)(torch.zeros(2, 4, 5, 5)), "match num_features"),
    ],
)
@pytest.mark.parametrize("lib", [nn, layers], ids=["torch", "ours"])
def test_messages(lib, make, says):
    with pytest.raises(ValueError, match=says):
        make(lib)


def test_no_groups_is_an_error_and_not_a_division_by_zero():
    with pytest.raises(ValueError, match=r"num_groups \(0\)"):
        layers.GroupNorm(0, 4)


@pytest.mark.parametrize("name", ["BatchNorm2d", "InstanceNorm2d"])
def test_an_empty_batch_leaves_the_running_statistics_alone(name):
    """torch's instance norm turns its own into NaN."""
    layer = getattr(layers, name)(3, track_running_stats=True)
    assert layer(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert torch.equal(layer.running_var, torch.ones(3))


def test_momentum_none_is_the_average_of_all_batches():
    layer = layers.BatchNorm1d(2, momentum=None)
    batches = torch.randn(5, 8, 2) + torch.arange(5.0)[:, None, None]
    for batch in batches:
        layer(batch)
    torch.testing.assert_close(layer.running_mean, batches.mean((0, 1)))
    torch.testing.assert_close(layer.running_var, batches.var(1).mean(0))
    layer.reset_running_stats()
    assert (layer.running_mean.sum(), layer.running_var.sum(), layer.num_batches_tracked) == (0, 2, 0)


def test_statistics_of_the_running_average_get_no_gradient():
    layer = layers.BatchNorm1d(2)
    layer(torch.randn(4, 2, requires_grad=True)).sum().backward()
    assert not layer.running_mean.requires_grad
    assert layer.running_mean.grad_fn is None


@pytest.fixture
def resnets():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=5)
    ours = copy.deepcopy(theirs)
    assert layers.replace_norms(ours) == 20
    return theirs, ours


def test_a_resnet_with_our_layers_gives_the_same_outputs_and_the_same_training_step(resnets):
    theirs, ours = resnets
    assert sum(type(m) is layers.BatchNorm2d for m in ours.modules()) == 20
    assert not any(type(m) is nn.BatchNorm2d for m in ours.modules())
    x, labels = torch.rand(4, 3, 64, 64).double(), torch.tensor([0, 1, 2, 3])
    for model in resnets:
        model.double()  # in float32 rounding alone grows a thousandfold over 20 layers and two steps
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), labels).backward()
            optimizer.step()
    assert _distance(ours.state_dict(), theirs.state_dict()) < 1e-9
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def _distance(a, b):
    return max(((a[k] - b[k]).abs().max() / b[k].abs().max().clamp(min=1)).item() for k in b)


def test_replacing_keeps_the_parameters_and_what_hangs_on_them(resnets):
    theirs, ours = resnets
    before = [id(p) for p in ours.parameters()]
    seen = []
    ours.bn1.register_forward_hook(lambda *_: seen.append(1))
    assert layers.replace_norms(ours) == 0
    assert layers.replace_norms(ours, back=True) == 20
    assert [id(p) for p in ours.parameters()] == before
    assert type(ours.bn1) is nn.BatchNorm2d
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    assert seen == [1]


def test_replacing_a_transformer_and_a_bare_layer():
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    x = torch.randn(2, 5, 16)
    expected = model(x)
    assert layers.replace_norms(model) == 2
    assert type(model.norm1) is layers.LayerNorm
    torch.testing.assert_close(model(x), expected)
    bare = nn.RMSNorm(3)
    assert layers.replace_norms(bare) == 1
    assert type(bare) is layers.RMSNorm


@pytest.mark.parametrize(
    "make",
    [
        lambda: (nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), (2, 3, 9)),
        lambda: (nn.Conv2d(4, 6, 3, groups=2, padding=1, bias=False), layers.BatchNorm2d(6), (2, 4, 9, 9)),
        lambda: (nn.Conv3d(3, 6, 1), layers.BatchNorm3d(6, affine=False), (2, 3, 4, 4, 4)),
        lambda: (nn.Linear(3, 6), layers.BatchNorm1d(6), (4, 3)),
    ],
)
def test_folding_a_batch_norm(make):
    conv, bn, shape = make()
    x = torch.randn(shape)
    for _ in range(3):
        bn(conv(x))
    with torch.no_grad():
        for p in bn.parameters():
            p.uniform_(0.5, 1.5)
    weight = conv.weight.clone()
    folded = layers.fold_batch_norm(conv, bn.eval())
    torch.testing.assert_close(folded(x), bn(conv(x)), rtol=1e-5, atol=1e-5)
    assert torch.equal(conv.weight, weight)


@pytest.mark.parametrize(
    ("bn", "says"),
    [
        (layers.BatchNorm2d(6), "bn is in training mode"),
        (layers.BatchNorm2d(6, track_running_stats=False).eval(), "bn keeps no running statistics"),
        (layers.BatchNorm2d(5).eval(), "6 output channels, but bn has 5"),
    ],
)
def test_what_cannot_be_folded(bn, says):
    with pytest.raises(ValueError, match=says):
        layers.fold_batch_norm(nn.Conv2d(3, 6, 3), bn)


@pytest.mark.parametrize("wrap", [reparam.spectral_norm, reparam.weight_norm, reparam.weight_standardization])
def test_folding_a_parametrized_convolution(wrap):
    torch.manual_seed(0)
    conv, bn = wrap(nn.Conv2d(3, 6, 3)).eval(), layers.BatchNorm2d(6)
    x = torch.randn(4, 3, 7, 7)
    bn(conv(x) * 3)
    bn.eval()
    folded = layers.fold_batch_norm(conv, bn)
    torch.testing.assert_close(folded(x), bn(conv(x)), rtol=1e-5, atol=1e-5)
    assert parametrize.is_parametrized(conv)
    assert not parametrize.is_parametrized(folded)


def test_folding_keeps_the_dtype_of_the_convolution():
    conv = nn.Conv2d(3, 6, 3, dtype=torch.bfloat16)
    folded = layers.fold_batch_norm(conv, layers.BatchNorm2d(6).eval())
    assert folded(torch.rand(1, 3, 4, 4).bfloat16()).dtype == torch.bfloat16


def test_only_a_batch_norm_is_folded():
    with pytest.raises(TypeError, match="bn must be a batch norm, got LayerNorm"):
        layers.fold_batch_norm(nn.Conv2d(3, 6, 3), layers.LayerNorm(6).eval())


def test_instance_norm_of_other_channels_warns_where_it_does_not_matter():
    x = torch.randn(2, 5, 4, 4)
    with pytest.warns(UserWarning, match="not used because affine=False"):
        y = layers.InstanceNorm2d(3)(x)
    torch.testing.assert_close(y, nn.functional.instance_norm(x))
    with pytest.raises(ValueError, match="num_features"):
        layers.InstanceNorm2d(3, affine=True)(x)


class BNAct(nn.BatchNorm2d):
    """As in timm: batch norm and activation in one."""

    def forward(self, x):
        return super().forward(x).relu()


class OurBNAct(layers.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


class StandardizedConv(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class OtherPadding(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return nn.functional.conv2d(x, weight, None if bias is None else 2 * bias)


class WideConv(nn.Conv2d):
    """A subclass that convolves as its parent does."""

    def __init__(self, c):
        super().__init__(c, 2 * c, 3)


def test_conversion_to_sync_batch_norm_is_in_place_wherever_a_layer_is_used():
    shared = nn.BatchNorm2d(3)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, layers.BatchNorm2d(3)), "again": shared})
    weight, mean = shared.weight, shared.running_mean
    assert layers.SyncBatchNorm.convert_sync_batchnorm(model, "group") is model
    assert model["a"] is model["b"][0] is model["again"] is shared
    assert type(shared) is type(model["b"][1]) is layers.SyncBatchNorm
    assert shared.process_group == "group"
    assert (shared.weight is weight, shared.running_mean is mean) == (True, True)
    x = torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(shared(x), nn.BatchNorm2d(3)(x))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: BNAct(3), "BNAct"),
        (lambda: OurBNAct(3), "OurBNAct"),
        (nn.LazyBatchNorm2d, "LazyBatchNorm2d"),
        (lambda: reparam.weight_norm(nn.BatchNorm2d(3)), "ParametrizedBatchNorm2d"),
    ],
    ids=["of torch's", "of ours", "lazy", "parametrized"],
)
def test_conversions_name_what_they_cannot_keep_and_leave_it_alone(make, name):
    plain, bn, lonely = nn.BatchNorm2d(3), make(), make()
    model = nn.Sequential(plain, nn.Sequential(nn.ReLU(), bn))
    with pytest.raises(TypeError, match=rf"cannot make a SyncBatchNorm of 1\.1 \({name}\)"):
        layers.SyncBatchNorm.convert_sync_batchnorm(model)
    with pytest.raises(TypeError, match=rf"the model itself \({name}\)"):
        layers.SyncBatchNorm.convert_sync_batchnorm(lonely)
    assert (type(plain), type(bn).__name__) == (nn.BatchNorm2d, name)
    for back, replaced in ((False, 1), (True, 1)):
        with pytest.warns(UserWarning, match=rf"left as they are: 1\.1 \({name}\)") as warned:
            assert layers.replace_norms(model, back=back) == replaced
        assert warned[0].filename == __file__  # the line of the caller
    assert type(bn).__name__ == name


def test_a_new_sync_batch_norm_is_torchs():
    ours, theirs = layers.SyncBatchNorm(6), nn.SyncBatchNorm(6)
    for name in ("eps", "momentum", "affine", "track_running_stats", "process_group"):
        assert getattr(ours, name) == getattr(theirs, name)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_back_is_said_by_its_name():
    with pytest.raises(TypeError):
        layers.replace_norms(nn.BatchNorm2d(3), True)


def test_a_lazy_layer_that_has_seen_a_batch_is_replaced():
    model = nn.Sequential(nn.LazyConv2d(4, 1), nn.LazyBatchNorm2d())
    model(torch.randn(2, 3, 4, 4))
    assert layers.replace_norms(model) == 1
    assert type(model[1]) is layers.BatchNorm2d


def test_sync_batch_norm_is_replaced_both_ways():
    model = nn.Sequential(nn.SyncBatchNorm(3, process_group="group"))
    assert layers.replace_norms(model) == 1
    assert (type(model[0]), model[0].process_group) == (layers.SyncBatchNorm, "group")
    assert layers.replace_norms(model, back=True) == 1
    assert type(model[0]) is nn.SyncBatchNorm
    assert model.eval()(torch.ones(1, 3, 2, 2)).shape == (1, 3, 2, 2)


@every_layer
def test_ours_are_torchs_by_inheritance(name, kwargs, shape):
    ours, theirs = getattr(layers, name), getattr(nn, name)
    assert issubclass(ours, theirs)
    assert inspect.signature(ours) == inspect.signature(theirs)


def test_every_layer_runs_our_functions(monkeypatch):
    """And not what it inherits, which would give the same numbers."""
    called = []
    for function in ("batch_norm", "instance_norm", "layer_norm", "rms_norm", "group_norm"):
        ours = getattr(layers.F, function)
        monkeypatch.setattr(
            layers.F, function, lambda *args, f=ours, name=function: called.append(name) or f(*args)
        )
    for name, kwargs, shape in LAYERS:
        getattr(layers, name)(**kwargs)(torch.randn(shape))
        assert called.pop().replace("_", "") == name.lower().rstrip("123d")
        assert not called


def test_torchs_tools_see_our_batch_norms():
    theirs = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    ours = copy.deepcopy(theirs)
    assert layers.replace_norms(ours) == 1
    batches = torch.randn(5, 4, 3, 8, 8) + torch.arange(5.0).view(-1, 1, 1, 1, 1)
    for model in (theirs, ours):
        model(batches[0])  # something to forget
        torch.optim.swa_utils.update_bn(batches, model)
    assert ours[1].num_batches_tracked == 5
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())

    fused = nn.utils.fuse_conv_bn_eval(ours[0].eval(), ours[1].eval())
    torch.testing.assert_close(fused(batches[0]), ours[1](ours[0](batches[0])), rtol=1e-4, atol=1e-5)
    sync = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(ours))
    assert type(sync[1]) is nn.SyncBatchNorm
    torch.testing.assert_close(sync.eval()(batches[0]), ours.eval()(batches[0]))
    assert not isinstance(layers.SyncBatchNorm(3), nn.SyncBatchNorm)  # which DDP refuses on a CPU


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tools_that_ask_for_the_class_itself_want_torchs_layers_back():
    quantization = pytest.importorskip("torch.ao.quantization")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), layers.BatchNorm2d(4)).eval()
    x = torch.randn(1, 3, 5, 5)
    expected = model(x)
    with pytest.raises((NotImplementedError, AssertionError), match="fuser method"):
        quantization.fuse_modules(model, ["0", "1"])
    assert layers.replace_norms(model, back=True) == 1
    fused = quantization.fuse_modules(model, ["0", "1"])
    assert type(fused[1]) is nn.Identity
    torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("conv", "bn", "error", "says"),
    [
        (nn.Conv2d(3, 6, 3), BNAct(6), TypeError, "bn must be a batch norm, got BNAct, which has a forward"),
        (
            StandardizedConv(3, 6, 3),
            layers.BatchNorm2d(6),
            TypeError,
            "StandardizedConv, which has a forward",
        ),
        (OtherPadding(3, 6, 3), layers.BatchNorm2d(6), TypeError, "OtherPadding, which has a forward"),
        (nn.LazyConv2d(6, 3), layers.BatchNorm2d(6), ValueError, "conv is a LazyConv2d that has not seen"),
        (nn.Conv2d(3, 6, 3), nn.LazyBatchNorm2d(), ValueError, "bn is a LazyBatchNorm2d that has not seen"),
        (nn.utils.spectral_norm(nn.Conv2d(3, 6, 3)), layers.BatchNorm2d(6), ValueError, "remove the hook"),
    ],
)
def test_what_may_do_something_else_is_not_folded(conv, bn, error, says):
    with pytest.raises(error, match=says):
        layers.fold_batch_norm(conv, bn.eval())


def test_subclasses_that_do_nothing_else_are_folded():
    class FrozenBatchNorm(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(False)

    conv, bn, x = WideConv(3), FrozenBatchNorm(6, eps=0.1).eval(), torch.randn(2, 3, 5, 5)
    folded = layers.fold_batch_norm(conv, bn)
    assert type(folded) is WideConv
    torch.testing.assert_close(folded(x), bn(conv(x)), rtol=1e-5, atol=1e-5)


def test_a_transposed_convolution_is_refused():
    with pytest.raises(TypeError, match="ConvTranspose2d"):
        layers.fold_batch_norm(nn.ConvTranspose2d(6, 6, 3), layers.BatchNorm2d(6).eval())


COMPILED = [LAYERS[i] for i in (2, 8, 12, 14, 16)]


@pytest.mark.parametrize(("name", "kwargs", "shape"), COMPILED, ids=[name for name, *_ in COMPILED])
def test_compiled(name, kwargs, shape):
    torch._dynamo.reset()
    theirs, ours = _pair(name, kwargs)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        x = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(_step(compiled, x), _step(theirs, x))
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
