"""Modules whose batch is another axis, or which have none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from backtrace_jax import MixedExamplesError, SettingError, explain

MODE = "gradient-x-input"


class Recogniser(nn.Module):
    """Sequence first: [time, batch, features] to [time, batch, classes]."""

    def __init__(self):
        super().__init__()
        self.recurrence, self.head = nn.LSTM(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.recurrence(x)[0])


class Messages(nn.Module):
    """Nodes of one graph, which exchange messages by its adjacency."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, nodes, adjacency):
        return self.two(torch.relu(adjacency @ self.one(nodes)))


class Scaled(nn.Module):
    """Rows over a temperature of one number, or of one for each class."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x, temperature):
        return self.layer(x) / temperature


def gradient_times_input(module, *inputs, start):
    """The module's output, and what autograd says: inputs times the gradient of the output times a start."""
    tensors = [torch.tensor(array, requires_grad=True) for array in inputs]
    output = module(*tensors)
    output.backward(torch.tensor(start))
    return output.detach().numpy(), [(tensor * tensor.grad).detach().numpy() for tensor in tensors]


def floats(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def test_a_recurrence_that_takes_time_first():
    torch.manual_seed(0)
    module, x, start = Recogniser().eval(), floats(5, 3, 3), floats(3, 5, 2)
    explanation = explain(module, x, batch_axis=1, mode=MODE, start=start)
    output, (expected,) = gradient_times_input(module, x, start=start.swapaxes(0, 1))
    np.testing.assert_allclose(explanation.outputs["output"], output.swapaxes(0, 1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(explanation.relevance["x"], expected.swapaxes(0, 1), rtol=1e-4, atol=1e-6)


def test_a_graph_without_a_batch():
    torch.manual_seed(0)
    module, start = Messages().eval(), floats(1, 6, 2)
    inputs = {"nodes": floats(6, 3), "adjacency": np.abs(floats(6, 6))}
    explanation = explain(module, inputs, batch_axis=None, mode=MODE, start=start)
    output, (nodes, adjacency) = gradient_times_input(module, *inputs.values(), start=start[0])
    np.testing.assert_allclose(explanation.outputs["output"], output[None], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(explanation.relevance["nodes"], nodes[None], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(explanation.relevance["adjacency"], adjacency[None], rtol=1e-4, atol=1e-5)


def test_an_input_that_all_examples_share():
    torch.manual_seed(0)
    module, x, temperature, start = Scaled().eval(), floats(4, 3), np.array([0.5, 2], np.float32), floats(4, 2)
    explanation = explain(
        module, {"x": x, "temperature": temperature}, batch_axis={"temperature": None}, mode=MODE, start=start
    )
    output, (rows, shared) = gradient_times_input(module, x, temperature, start=start)
    np.testing.assert_allclose(explanation.outputs["output"], output, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(explanation.relevance["x"], rows, rtol=1e-4, atol=1e-6)
    assert explanation.relevance["temperature"].shape == (4, 2)
    np.testing.assert_allclose(explanation.relevance["temperature"].sum(0), shared, rtol=1e-4, atol=1e-5)


def test_axes_that_a_module_does_not_have():
    with pytest.raises(SettingError, match=r"batch_axis=2 is no axis of input input \[3, 4\]"):
        explain(nn.Linear(4, 2), floats(3, 4), batch_axis=2)


class Behind(nn.Module):
    """A layer behind something done to the batch."""

    def __init__(self, done):
        super().__init__()
        self.done, self.layer = done, nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(self.done(x))


MIXING = {  # name: (what is done to the batch, the node that is named)
    "mean": (lambda x: x - x.mean(0), "ReduceMean"),
    "size": (lambda x: x / x.shape[0], "Div"),
    "statistics": (nn.BatchNorm1d(4, track_running_stats=False), "ReduceMean"),
}


@pytest.mark.parametrize(("name", "rows"), [("mean", 1), ("size", 4), ("statistics", 4)])
def test_a_module_that_mixes_its_examples_is_refused(name, rows):
    done, operator = MIXING[name]
    module = Behind(done).eval()
    with pytest.raises(MixedExamplesError, match=rf"Behind cannot be.*node '\w+' \(ai.onnx.{operator}\)") as caught:
        explain(module, floats(rows, 4))
    assert str(caught.value).endswith("If the inputs are one example together, pass batch_axis=None")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "done",
    [lambda x: x.reshape(4, -1).tanh(), lambda x: torch.stack([row * row[0] for row in x])],
    ids=["baked", "stacked"],
)
def test_a_module_that_counts_its_examples_and_treats_each_alone(done):
    torch.manual_seed(0)
    module, x, start = Behind(done).eval(), floats(4, 4), floats(4, 3)
    explanation = explain(module, x, mode=MODE, start=start)
    output, (expected,) = gradient_times_input(module, x, start=start)
    np.testing.assert_allclose(explanation.outputs["output"], output, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(explanation.relevance["x"], expected, rtol=1e-4, atol=1e-6)
