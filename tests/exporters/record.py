"""Records what exporters of other environments make of the networks, in `recorded/<network>.<exporter>.onnx`.

tf2onnx needs an old TensorFlow, so it lives in an environment of its own, made with Python 3.11:

    python3.11 -m venv tf
    tf/bin/pip install tensorflow-cpu==2.14.1 tf2onnx==1.16.1 numpy==1.26.4 onnx==1.16.2 protobuf==3.20.3
    tf/bin/python -m tests.exporters.record tf2onnx

jax2onnx and onnxsim go beside what the tests need, which they pin to other versions:

    python3.11 -m venv sim
    sim/bin/pip install -c constraints.txt -e ".[test]"
    sim/bin/pip install --no-deps jax2onnx==0.17.1 flax==0.12.8 onnx_ir orbax-checkpoint onnxsim==0.8.1 rich
    sim/bin/python -m tests.exporters.record jax2onnx
    sim/bin/python -m tests.exporters.record onnxsim
    sim/bin/python -m tests.exporters.record weights

The last one draws other weights (`weights.npz`), after which everything is recorded anew.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx

from .weights import ARCHIVE, OVER_TOKENS, SHAPES, recorded

OPSET = 17


def tf2onnx(name: str) -> onnx.ModelProto:
    """From a model of Keras 2, as TensorFlow runs it."""
    os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
    import tensorflow as tf
    import tf2onnx as converter

    from .keras_models import Twin

    ops = SimpleNamespace(
        rsqrt=tf.math.rsqrt, mean=tf.reduce_mean, square=tf.square, transpose=tf.transpose, reshape=tf.reshape,
        split=tf.split, concatenate=tf.concat, matmul=tf.matmul, softmax=tf.nn.softmax, silu=tf.nn.silu,
        zeros_like=tf.zeros_like,
    )  # fmt: skip
    model = Twin(tf.keras, ops, name).model()
    kind = tf.int32 if name in OVER_TOKENS else tf.float32
    return converter.convert.from_keras(model, [tf.TensorSpec(SHAPES[name], kind, "x")], opset=OPSET)[0]


def jax2onnx(name: str) -> onnx.ModelProto:
    """From a function of JAX."""
    import jax
    import jax.numpy as jnp
    from jax2onnx import to_onnx

    from .flax_models import build

    kind = jnp.int32 if name in OVER_TOKENS else jnp.float32
    found: Any = to_onnx(build(name), [jax.ShapeDtypeStruct(SHAPES[name], kind)], model_name=name, opset=21)
    return found


def onnxsim(name: str) -> onnx.ModelProto:
    """From what torch's older exporter writes: batch norm is left to the simplifier."""
    import onnxsim as simplifier

    from .torch_files import plain

    found, checked = simplifier.simplify(plain(name))
    if not checked:
        raise ValueError(f"{name}: the simplified file computes something else")
    return found


def weights() -> None:
    """Draw all weights: none is an identity, and activations keep their size."""
    import torch

    from .modules import NETWORKS

    arrays: dict[str, np.ndarray] = {}
    for seed, (name, kind) in enumerate(NETWORKS.items()):
        torch.manual_seed(seed)
        for key, tensor in kind().state_dict().items():
            if tensor.ndim:
                arrays[f"{name}/{key}"] = _drawn(key, tensor).numpy()
    np.savez_compressed(ARCHIVE, **arrays)


def _drawn(key: str, tensor: Any) -> Any:
    if key.endswith("running_var") or (key.startswith(("bn", "norm", "scale")) and not key.endswith(("bias", "mean"))):
        return tensor.uniform_(0.5, 1.5)
    if "bias" in key or key.endswith("running_mean"):
        return tensor.normal_(0, 0.3)
    spread = 1 if key.startswith(("words", "places", "first")) else 1.2 * np.prod(tensor.shape[1:]) ** -0.5
    return tensor.normal_(0, spread)


EXPORTERS = {each.__name__: each for each in (tf2onnx, jax2onnx, onnxsim)}


def main() -> None:
    """Record what one exporter makes of the networks that are named, or of all."""
    chosen, names = sys.argv[1], sys.argv[2:] or SHAPES
    if chosen == "weights":
        weights()
        return
    for name in names:
        path: Path = recorded(name, chosen)
        model = EXPORTERS[chosen](name)
        del model.metadata_props[:]
        model.graph.doc_string = ""
        onnx.save(model, path)
        print(f"{path.name}: {path.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    main()
