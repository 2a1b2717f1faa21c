"""Train the two models of the demo and write them, with held-out examples, beside this file.

Needs torch, onnxscript, onnxruntime and scikit-learn (`pip install "backtrace-jax[test]"`); the demo itself needs none
of them, because what this script writes is shipped:

    digits.onnx          a small convolutional network for 8 x 8 pictures of digits (scikit-learn's `digits`)
    breast_cancer.onnx   a perceptron for 30 standardised measurements of a tumour (scikit-learn's `breast_cancer`)
    *.npz                held-out examples with labels and names

Run: python -m backtrace_jax.demo.make_models
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split
from torch import nn

FOLDER = Path(__file__).parent
SEED = 0
SHIPPED_EXAMPLES = 16
LARGEST_MODEL = 200_000  # bytes: it goes into the wheel


@dataclass(frozen=True)
class Split:
    """Training and held-out examples, float32 inputs and int64 labels."""

    train_inputs: np.ndarray
    test_inputs: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray


def split(inputs: np.ndarray, labels: np.ndarray) -> Split:
    """Hold a quarter out, every class in proportion."""
    parts: Any = train_test_split(inputs, labels, test_size=0.25, random_state=SEED, stratify=labels)
    return Split(parts[0].astype(np.float32), parts[1].astype(np.float32), parts[2], parts[3])


def digits_network() -> nn.Module:
    """Two convolutions with pooling and one dense layer: [batch, 1, 8, 8] -> 10 logits."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 2 * 2, 10)),
    )


def breast_cancer_network() -> nn.Module:
    """A perceptron with two hidden layers: [batch, 30] -> 2 logits."""
    return nn.Sequential(nn.Linear(30, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 2))


def train(network: nn.Module, data: Split, *, epochs: int, decay: float) -> float:
    """Fit with Adam on shuffled batches of 64 and return the accuracy on the held-out examples."""
    inputs, labels = torch.from_numpy(data.train_inputs), torch.from_numpy(data.train_labels)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3, weight_decay=decay)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(inputs[rows]), labels[rows]).backward()
            optimiser.step()
    with torch.no_grad():
        answers = network(torch.from_numpy(data.test_inputs)).argmax(1).numpy()
    return float((answers == data.test_labels).mean())


def export(network: nn.Module, example: np.ndarray, input_name: str, path: Path) -> None:
    """Write the network as ONNX opset 20 with a free batch axis, without traces of the machine that made it."""
    program = torch.onnx.export(
        network.eval(),
        (torch.from_numpy(example),),
        input_names=[input_name],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=20,
        external_data=False,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    strip_traces(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def strip_traces(model: onnx.ModelProto) -> None:
    """Remove every metadata entry that holds a path or a trace of the exporter's run; keep the module names."""
    graph = model.graph
    values = [*graph.input, *graph.output, *graph.value_info]
    for holder in (model, graph, *graph.node, *graph.initializer, *values):
        kept = [entry for entry in holder.metadata_props if keeps(entry)]
        del holder.metadata_props[:]
        holder.metadata_props.extend(kept)
    model.doc_string = graph.doc_string = ""
    for node in graph.node:
        node.doc_string = ""


def keeps(entry: onnx.StringStringEntryProto) -> bool:
    """Keep what names modules, which explanations use; drop everything else."""
    names_modules = entry.key in ("namespace", "pkg.torch.onnx.class_hierarchy", "pkg.torch.onnx.name_scopes")
    return names_modules and not any(mark in entry.value for mark in ("File ", "/lib/", "/home/", "\\"))


def verify(network: nn.Module, data: Split, path: Path) -> None:
    """Compare the written file with the network on all held-out examples, and check its size."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (entry.name for entry in session.get_inputs())
    found: Any = session.run(None, {name: data.test_inputs})[0]
    with torch.no_grad():
        expected = network(torch.from_numpy(data.test_inputs)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert path.stat().st_size < LARGEST_MODEL, path.stat().st_size


def build(
    name: str,
    input_name: str,
    network: Callable[[], nn.Module],
    data: Split,
    names: dict[str, np.ndarray],
    *,
    epochs: int,
    decay: float,
    floor: float,
) -> None:
    """Train, export, verify and write one model and its examples."""
    torch.manual_seed(SEED)
    trained = network()
    accuracy = train(trained, data, epochs=epochs, decay=decay)
    assert accuracy >= floor, f"{name}: accuracy {accuracy:.3f} is below {floor}"
    export(trained, data.test_inputs[:2], input_name, FOLDER / f"{name}.onnx")
    verify(trained, data, FOLDER / f"{name}.onnx")
    examples = {input_name: data.test_inputs[:SHIPPED_EXAMPLES], "label": data.test_labels[:SHIPPED_EXAMPLES]}
    arrays: dict[str, Any] = {**examples, **names}
    np.savez(FOLDER / f"{name}.npz", **arrays)
    size = (FOLDER / f"{name}.onnx").stat().st_size
    print(f"{name}: accuracy {accuracy:.4f} on {len(data.test_labels)} held-out examples, {size} bytes")


def build_digits() -> None:
    """The digits, grey values scaled from 0..16 to 0..1."""
    source: Any = load_digits()
    data = split(source.images[:, None] / 16.0, source.target)
    names = {"class_names": np.array([str(name) for name in source.target_names])}
    build("digits", "image", digits_network, data, names, epochs=60, decay=1e-4, floor=0.97)


def build_breast_cancer() -> None:
    """The tumours, every feature standardised with mean and deviation of the training examples."""
    source: Any = load_breast_cancer()
    raw = split(source.data, source.target)
    mean, deviation = raw.train_inputs.mean(0), raw.train_inputs.std(0)
    train_inputs, test_inputs = (raw.train_inputs - mean) / deviation, (raw.test_inputs - mean) / deviation
    data = Split(train_inputs, test_inputs, raw.train_labels, raw.test_labels)
    names = {"feature_names": np.array(source.feature_names, str), "class_names": np.array(source.target_names, str)}
    build("breast_cancer", "features", breast_cancer_network, data, names, epochs=40, decay=3e-3, floor=0.95)


if __name__ == "__main__":
    torch.set_num_threads(1)  # the order of sums, and with it the weights, must not depend on the machine's cores
    build_digits()
    build_breast_cancer()
