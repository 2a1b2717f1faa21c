"""Records what zennit 0.5.1 makes of the networks of `zennit_networks.py`, for `test_zennit.py`.

zennit needs torchvision, whose wheel must fit torch's exactly: beside another build of torch its operators are
missing, and other packages, transformers among them, stop importing. So both live in an environment of their own,
made in the repository's root with Python 3.11:

    python3.11 -m venv reference
    reference/bin/pip install -c constraints.txt torch onnxscript zennit==0.5.1 torchvision==0.28.0
    reference/bin/python -m tests.peers.record_zennit

That rewrites `zennit.npz` beside this file. zennit (LGPL) is only called, through its public interface. Per network
the archive holds

    model                   the ONNX file
    inputs, outputs, start  examples first; the start relevance has the shape of the outputs
    relevance/MODE          of the inputs, in single precision; MODE is this package's name, with settings if any
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.peers.zennit_networks import NETWORKS, case
from tests.peers.zennit_reference import PEERS

ARCHIVE = Path(__file__).with_name("zennit.npz")


def record(name: str) -> dict[str, np.ndarray]:
    """Everything about one network."""
    made = case(name)
    arrays = {"inputs": made.inputs, "outputs": made.outputs, "start": made.start}
    arrays["model"] = np.frombuffer(made.model.SerializeToString(), np.uint8)
    for peer in PEERS:
        relevance = peer.relevance(name, made.inputs, made.start)
        arrays[f"relevance/{peer}"] = relevance.astype(np.float32)
    return {f"{name}/{key}": array for key, array in arrays.items()}


if __name__ == "__main__":
    np.savez_compressed(ARCHIVE, **{key: array for name in NETWORKS for key, array in record(name).items()})
