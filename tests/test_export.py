"""A model with the layers of normtut leaves torch by `torch.export` and by ONNX, with the same outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normtut import IMAGENET, Normalize, functional, layers, reparam


class Model(nn.Module):
    """Every norm, AdaIN, and the parametrizations of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.normalize = Normalize(*IMAGENET)
        self.body = nn.Sequential(
            reparam.weight_norm(nn.Conv2d(3, 8, 3, padding=1)),
            layers.BatchNorm2d(8),
            nn.ReLU(),
            reparam.spectral_norm(nn.Conv2d(8, 8, 3, padding=1)),
            layers.GroupNorm(2, 8),
            reparam.weight_standardization(nn.Conv2d(8, 8, 1)),
            layers.InstanceNorm2d(8, affine=True),
            layers.LayerNorm([8, 6, 5]),
            layers.RMSNorm(5),
        )

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return functional.adain(self.body(self.normalize(x)), self.body(self.normalize(style)))


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    model = Model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # γ = 1 and β = 0 would hide what is left out
        for _ in range(3):
            model(*inputs(8))  # running statistics that are not 0 and 1
    return model.eval()


def inputs(batch: int) -> tuple[Tensor, Tensor]:
    return torch.rand(batch, 3, 6, 5), torch.rand(batch, 3, 6, 5) ** 2


BATCH = {name: {0: torch.export.Dim("n")} for name in ("x", "style")}


@pytest.mark.slow
def test_torch_export_of_all_layers(model: Model) -> None:
    program = torch.export.export(model, inputs(2), dynamic_shapes=BATCH)
    for batch in (2, 5):
        x, style = inputs(batch)
        torch.testing.assert_close(program.module()(x, style), model(x, style), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_of_all_layers(model: Model, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(model, inputs(2), path, dynamo=True, input_names=["x", "style"], dynamic_shapes=BATCH)
    session = onnxruntime.InferenceSession(path)
    for batch in (2, 5):
        x, style = inputs(batch)
        (result,) = session.run(None, {"x": x.numpy(), "style": style.numpy()})
        expected = model(x, style).detach().numpy()
        assert np.abs(expected).max() > 1
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
