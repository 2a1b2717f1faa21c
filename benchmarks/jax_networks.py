"""Networks in torch and in Flax, at real size or a small one, and a process that explains one: see `jax_roads`."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

CLASSES, REPEATED = 3, 5


@dataclass(frozen=True)
class Size:
    """Of a network and of its input: numbers of blocks, or layers, width and vocabulary."""

    depths: tuple[int, ...]
    length: int
    width: int = 64
    vocabulary: int = 1000

    @property
    def heads(self) -> int:
        """Of 64 numbers each."""
        return self.width // 64


SIZES = {
    "resnet50": {"real": Size((3, 4, 6, 3), 224), "small": Size((1, 1), 32)},
    "bert_base": {"real": Size((12,), 128, 768, 30522), "small": Size((1,), 16, 128)},
    "llama_block": {"real": Size((1,), 128, 2048), "small": Size((1,), 16, 256)},
}
TASKS = {"llama_block": "next-token"}


def inputs_of(network: str, size: Size) -> dict[str, np.ndarray]:
    """One example, as torch has it; pictures have their channels first."""
    generator = np.random.default_rng(0)
    if network == "resnet50":
        return {"x": generator.normal(size=(1, 3, size.length, size.length)).astype(np.float32)}
    tokens = generator.integers(3, size.vocabulary, size=(1, size.length))
    if network == "llama_block":
        return {"tokens": tokens}
    mask = np.ones_like(tokens)
    return {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.arange(size.length)[None] // 64 % 2}


def torch_module(network: str, size: Size) -> Any:
    """The network in torch, with weights that hide nothing."""
    import torch
    from torch import nn
    from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

    from tests.zoo.recipe import randomise

    from .speed.networks import Bottleneck, Classifier, NextToken, ResNet

    torch.manual_seed(0)
    shared = {"vocab_size": size.vocabulary, "hidden_size": size.width, "num_hidden_layers": size.depths[0]}
    if network == "resnet50":
        module: nn.Module = ResNet(Bottleneck, (*size.depths, 1, 1)[:4])
        module.fc = nn.Linear(2048, CLASSES)
    elif network == "bert_base":
        own = {"num_attention_heads": size.heads, "intermediate_size": 4 * size.width, "num_labels": CLASSES}
        module = Classifier(BertForSequenceClassification(BertConfig(**shared, **own, attn_implementation="eager")))
    else:
        own = {"num_attention_heads": size.heads, "num_key_value_heads": size.heads // 4, "head_dim": 64}
        own |= {"intermediate_size": 4 * size.width, "tie_word_embeddings": False, "use_cache": False}
        module = NextToken(LlamaForCausalLM(LlamaConfig(**shared, **own, attn_implementation="eager")))
    randomise(module)
    return module.eval()


def flax_module(network: str, size: Size) -> Any:
    """The network in Flax, with drawn weights."""
    from tests.importers.jax.zoo import Call, Sizes
    from tests.importers.jax.zoo_nnx import ResNet, example
    from tests.importers.jax.zoo_nnx_text import Bert, Llama

    heads = size.heads // 4 if network == "llama_block" else size.heads
    sizes = Sizes(size.width, heads, 64, size.heads, 4 * size.width, size.depths[0], size.vocabulary, places=512)
    makers: dict[str, Callable[[Any], Any]] = {
        "resnet50": lambda rngs: ResNet((*size.depths, 1, 1)[:4], deep=True, width=size.width, rngs=rngs),
        "bert_base": lambda rngs: Bert(sizes, rngs=rngs),
        "llama_block": lambda rngs: Llama(sizes, rngs=rngs),
    }
    return example(makers[network], Call(None)).model


def work(road: str, network: str, mode: str, size: str, folder: str) -> None:
    """Export, or explain twice and print what it took."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    chosen, path = SIZES[network][size], Path(folder) / "model.onnx"
    inputs = inputs_of(network, chosen)
    if road == "export":
        _export(torch_module(network, chosen), inputs, path)
        print(json.dumps({}))
        return
    given: Any = inputs if road == "onnx" else tuple(inputs.values())
    model: Any = str(path)
    if road == "torch":
        model = torch_module(network, chosen)
    if road == "flax":
        model = flax_module(network, chosen)
        given = tuple(value.transpose(0, 2, 3, 1) if value.ndim == 4 else value for value in given)
    print(json.dumps(_explained(model, given, mode, TASKS.get(network, "auto"))))


def _export(module: Any, inputs: dict[str, np.ndarray], path: Path) -> None:
    from .speed.preparing import export

    export(module, {name: np.repeat(value, 2, 0) for name, value in inputs.items()}, path)


def _explained(model: Any, inputs: Any, mode: str, task: str) -> dict[str, Any]:
    """Seconds of the first explanation, the import within it, and the second one; functions compiled, and nodes."""
    import jax

    from backtrace_jax.explainer import explaining

    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event.endswith("/backend_compile_duration") else None
    )
    read, imports = explaining.read, []

    def reading(*args: Any, **kwargs: Any) -> Any:
        found, took = _timed(lambda: read(*args, **kwargs))
        imports.append(took)
        return found

    explaining.read = reading
    found, first = _timed(lambda: explaining.explain(model, inputs, mode=mode, task=task))
    count = len(compiled)
    seconds = [_timed(lambda: explaining.explain(model, inputs, mode=mode, task=task))[1] for _ in range(REPEATED)]
    second = tuple(median(took[k] for took in seconds) for k in range(2))
    times = {"import": imports[0], "first": first, "second": second}
    spent = {
        f"{name}_{clock}": took[k] for name, took in times.items() for k, clock in enumerate(("wall", "processor"))
    }
    nodes = len(found.ledger.by_node)
    return {**spent, "compiled": count, "later_compiled": len(compiled) - count, "nodes": nodes}


def _timed(function: Callable[[], Any]) -> tuple[Any, tuple[float, float]]:
    wall, processor = time.perf_counter(), time.process_time()
    found = function()
    return found, (time.perf_counter() - wall, time.process_time() - processor)
