"""AttnLRP and CP-LRP for the zoo's transformers: the papers' rules as torch functions with a backward of their own.

Each function computes what the network computes; its backward takes the relevance of the result where autograd
expects a gradient and returns the relevance of the operands. Moves (reshape, transpose, slice, expand) and values
with several readers need nothing of their own: there the gradient already is the relevance. Derived from the
publications alone: AttnLRP is Achtibat et al. 2024 (arXiv 2402.05602), CP-LRP is Ali et al. 2022.

    relevance of the operands of          AttnLRP                                      CP-LRP, where it differs
    linear z = Kx + b                     x ⊙ Kᵀ(R / (z + ε sign z))
    sum y = Σ x_k                         x_k R / (y + ε sign y)
    matmul O = AB                         A ⊙ (R / 2(O + ε sign O)) Bᵀ, B likewise
    product y = ab                        ½ ab R / (y + ε sign y) to a and to b
    activation, layer norm, RMS norm      R
    softmax A = softmax(S)                S ⊙ (R − A ΣR)                               nothing
    weighted values O = AV                as any matmul                                V ⊙ Aᵀ(R / (O + ε sign O)) to V

sign 0 is 1. Biases, constant terms of sums and ε take their share, which is lost. Everything is float64, with the
constants of the exported file (softmax scale, rotary tables) as they are rounded there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

EPSILON = 1e-6
Mode = Literal["attnlrp", "cp-lrp"]


class Answer(NamedTuple):
    """What a network says, and the relevance of every token under the name of the input it came by."""

    output: np.ndarray
    relevance: dict[str, np.ndarray]


class Walked(NamedTuple):
    """A forward pass: the output, and the embedded tokens that relevance is read at."""

    output: Tensor
    embedded: dict[str, Tensor]


def _stabilised(z: Tensor, epsilon: float) -> Tensor:
    """z + ε sign z, which is never zero."""
    return z + torch.where(z >= 0, epsilon, -epsilon)


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
        z = functional.linear(x, weight, bias)
        ctx.save_for_backward(x, weight, _stabilised(z, epsilon))
        return z

    @staticmethod
    def backward(ctx: Any, R: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, z = ctx.saved_tensors
        return x * ((R / z) @ weight), None, None, None


class _Scale(Function):
    """Multiplication by a constant: a linear map whose matrix is diagonal."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, constant: Tensor, epsilon: float) -> Tensor:
        y = x * constant
        ctx.save_for_backward(y, _stabilised(y, epsilon))
        return y

    @staticmethod
    def backward(ctx: Any, R: Tensor) -> tuple[Tensor | None, ...]:
        y, stabilised = ctx.saved_tensors
        return y * R / stabilised, None, None


class _Sum(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, epsilon: float) -> Tensor:
        y = a + b
        ctx.save_for_backward(a, b, _stabilised(y, epsilon))
        return y

    @staticmethod
    def backward(ctx: Any, R: Tensor) -> tuple[Tensor | None, ...]:
        a, b, y = ctx.saved_tensors
        return (a * R / y).sum_to_size(a.shape), (b * R / y).sum_to_size(b.shape), None


class _Product(Function):
    """Elementwise: both factors contribute ab, so each takes half."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, epsilon: float) -> Tensor:
        y = a * b
        ctx.save_for_backward(y, _stabilised(y, epsilon))
        return y

    @staticmethod
    def backward(ctx: Any, R: Tensor) -> tuple[Tensor | None, ...]:
        y, stabilised = ctx.saved_tensors
        half = y * R / (2 * stabilised)
        return half, half, None


class _MatMul(Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, epsilon: float) -> Tensor:
        y = a @ b
        ctx.save_for_backward(a, b, _stabilised(y, epsilon))
        return y

    @staticmethod
    def backward(ctx: Any, R: Tensor) -> tuple[Tensor | None, ...]:
        a, b, y = ctx.saved_tensors
        half = R / (2 * y)
        return a * (half @ b.mT), b * (a.mT @ half), None


class _Mixing(Function):
    """Values averaged by weights that count as constants."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, epsilon: float) -> Tensor:
        y = weights @ values
        ctx.save_for_backward(weights, values, _stabilised(y, epsilon))
        return y

    @staticmethod
    def backward(ctx: Any, R: Tensor) -> tuple[Tensor | None, ...]:
        weights, values, y = ctx.saved_tensors
        return None, values * (weights.mT @ (R / y)), None


class _Softmax(Function):
    """The first-order expansion of the softmax (AttnLRP, proposition 3.1); a hidden position takes nothing."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        weights = scores.softmax(-1)
        ctx.save_for_backward(scores, weights)
        return weights

    @staticmethod
    def backward(ctx: Any, R: Tensor) -> Tensor:
        scores, weights = ctx.saved_tensors
        visible = torch.where(weights == 0, 0.0, scores)
        return visible * (R - weights * R.sum(-1, keepdim=True))


class _Identity(Function):
    """Any function of one value that hands its relevance on: activations and norms."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(x)

    @staticmethod
    def backward(ctx: Any, R: Tensor) -> tuple[Tensor | None, ...]:
        return R, None


@dataclass(frozen=True)
class Rules:
    """The operations of a transformer, each with its rule."""

    mode: Mode = "attnlrp"
    epsilon: float = EPSILON

    def linear(self, layer: nn.Linear, x: Tensor) -> Tensor:
        """A dense layer; its bias takes a share."""
        return _Linear.apply(x, layer.weight, layer.bias, self.epsilon)

    def scale(self, x: Tensor, constant: Tensor | float) -> Tensor:
        """Multiplication by a constant."""
        return _Scale.apply(x, torch.as_tensor(constant, dtype=x.dtype), self.epsilon)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """A sum of two values, either of which may be constant."""
        return _Sum.apply(a, b, self.epsilon)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """An elementwise product of two values that both bear relevance."""
        return _Product.apply(a, b, self.epsilon)

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        """A matrix product of two values that both bear relevance."""
        return _MatMul.apply(a, b, self.epsilon)

    def identity(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """An activation or a norm."""
        return _Identity.apply(x, function)

    def softmax(self, scores: Tensor) -> Tensor:
        """Attention weights of scores."""
        return _Softmax.apply(scores)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, *, scale: float, mask: Tensor) -> Tensor:
        """softmax(QKᵀ · scale + mask) V, op by op as it is exported."""
        scores = self.add(self.scale(self.matmul(query, key.mT), scale), mask)
        weights = self.softmax(scores)
        mix = _Mixing if self.mode == "cp-lrp" else _MatMul
        return mix.apply(weights, value, self.epsilon)


def _heads(x: Tensor, width: int) -> Tensor:
    """[batch, tokens, heads * width] -> [batch, heads, tokens, width]."""
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    """[batch, heads, tokens, width] -> [batch, tokens, heads * width]."""
    return x.transpose(1, 2).flatten(2)


def _hidden_by(visible: Tensor) -> Tensor:
    """The mask added to the scores: 0 where a token is visible, else the lowest float32."""
    return torch.where(visible, 0.0, float(np.finfo(np.float32).min)).double()


def bert(module: nn.Module, inputs: dict[str, Tensor], rules: Rules) -> Walked:
    """A zoo module around `BertForSequenceClassification`."""
    model = module.model
    embeddings = model.bert.embeddings
    words = embeddings.word_embeddings(inputs["input_ids"]).detach().requires_grad_()
    segments = embeddings.token_type_embeddings(inputs["token_type_ids"]).detach().requires_grad_()
    positions = embeddings.position_embeddings.weight[: words.shape[1]]
    hidden = rules.identity(embeddings.LayerNorm, rules.add(rules.add(words, segments), positions))
    mask = _hidden_by(inputs["attention_mask"][:, None, None].bool())
    for layer in model.bert.encoder.layer:
        hidden = _bert_layer(layer, hidden, mask, rules)
    pooled = rules.identity(torch.tanh, rules.linear(model.bert.pooler.dense, hidden[:, 0]))
    return Walked(rules.linear(model.classifier, pooled), {"input_ids": words, "token_type_ids": segments})


def _bert_layer(layer: nn.Module, hidden: Tensor, mask: Tensor, rules: Rules) -> Tensor:
    """Attention and feed-forward part, each with a skip and a norm after it."""
    projections, width = layer.attention.self, layer.attention.self.attention_head_size
    parts = (projections.query, projections.key, projections.value)
    query, key, value = (_heads(rules.linear(part, hidden), width) for part in parts)
    mixed = _joined(rules.attention(query, key, value, scale=projections.scaling, mask=mask))
    hidden = _skip(layer.attention.output, mixed, hidden, rules)
    expanded = rules.identity(functional.gelu, rules.linear(layer.intermediate.dense, hidden))
    return _skip(layer.output, expanded, hidden, rules)


def _skip(block: nn.Module, x: Tensor, skip: Tensor, rules: Rules) -> Tensor:
    """BERT's output block: dense, add, norm."""
    return rules.identity(block.LayerNorm, rules.add(rules.linear(block.dense, x), skip))


def llama(module: nn.Module, inputs: dict[str, Tensor], rules: Rules) -> Walked:
    """A zoo module around `LlamaForCausalLM`, without padding."""
    model = module.model.model
    words = model.embed_tokens(inputs["input_ids"]).detach().requires_grad_()
    place = torch.arange(words.shape[1])
    mask = _hidden_by(place[:, None] >= place)
    tables = model.rotary_emb(words, place[None])
    hidden = words
    for layer in model.layers:
        normed = rules.identity(_rms_norm(layer.input_layernorm), hidden)
        hidden = rules.add(hidden, _llama_attention(layer.self_attn, normed, tables, mask, rules))
        normed = rules.identity(_rms_norm(layer.post_attention_layernorm), hidden)
        hidden = rules.add(hidden, _swiglu(layer.mlp, normed, rules))
    output = rules.linear(module.model.lm_head, rules.identity(_rms_norm(model.norm), hidden))
    return Walked(output, {"input_ids": words})


def _rms_norm(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    """x / √(mean x² + ε) · weight, in the precision of x."""
    return lambda x: functional.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _llama_attention(
    part: nn.Module, hidden: Tensor, tables: tuple[Tensor, Tensor], mask: Tensor, rules: Rules
) -> Tensor:
    """Rotated queries and keys; every key and value serves several queries."""
    projections = (part.q_proj, part.k_proj, part.v_proj)
    query, key, value = (_heads(rules.linear(layer, hidden), part.head_dim) for layer in projections)
    query, key = _rotated(query, tables, rules), _rotated(key, tables, rules)
    key, value = (x.repeat_interleave(part.num_key_value_groups, 1) for x in (key, value))
    mixed = rules.attention(query, key, value, scale=part.scaling, mask=mask)
    return rules.linear(part.o_proj, _joined(mixed))


def _rotated(x: Tensor, tables: tuple[Tensor, Tensor], rules: Rules) -> Tensor:
    """x · cos + turned x · sin (Su et al. 2021); heads lie between batch and tokens."""
    cosine, sine = (table[:, None] for table in tables)
    first, second = x.chunk(2, -1)
    turned = torch.cat([rules.scale(second, -1.0), first], -1)
    return rules.add(rules.scale(x, cosine), rules.scale(turned, sine))


def _swiglu(part: nn.Module, hidden: Tensor, rules: Rules) -> Tensor:
    """A gated feed-forward part; SiLU is one activation, though files spell it x · sigmoid(x).

    As a product of two values it would hand on the same but for an ε: half to x, half to x through the sigmoid.
    """
    gate = rules.identity(functional.silu, rules.linear(part.gate_proj, hidden))
    return rules.linear(part.down_proj, rules.product(gate, rules.linear(part.up_proj, hidden)))


NETWORKS = {"bert": bert, "llama": llama}


class _Tables(nn.Module):
    """Rotary tables as constants, [1, tokens, width of a head]."""

    def __init__(self, cosine: np.ndarray, sine: np.ndarray) -> None:
        super().__init__()
        self.tables = tuple(torch.tensor(table, dtype=torch.float64) for table in (cosine, sine))

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, ...]:
        return self.tables


def _rotary_tables(file: onnx.ModelProto) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine, the only constants of rank 4 that an exported LLaMA holds in float; cos 0 is the larger."""
    arrays = (numpy_helper.to_array(entry) for entry in file.graph.initializer)
    tables = [array[0] for array in arrays if array.dtype == np.float32 and array.ndim == 4]
    sine, cosine = sorted(tables, key=lambda table: table[0, 0, 0])
    return cosine, sine


def in_double(module: nn.Module, file: onnx.ModelProto) -> nn.Module:
    """A zoo module in float64, its other constants as the exported file has rounded them; in place."""
    for part in module.modules():
        if hasattr(part, "scaling"):
            part.scaling = float(np.float32(part.scaling))
    decoder = getattr(module.model, "model", None)
    if hasattr(decoder, "rotary_emb"):
        decoder.rotary_emb = _Tables(*_rotary_tables(file))
    return module.double().requires_grad_(False)


def explain(
    name: str,
    module: nn.Module,
    inputs: dict[str, np.ndarray],
    start: np.ndarray,
    *,
    mode: Mode = "attnlrp",
    epsilon: float = EPSILON,
) -> Answer:
    """Relevance of every token, given the relevance of the output; `module` comes from `in_double`."""
    tensors = {key: torch.tensor(value) for key, value in inputs.items()}
    output, embedded = NETWORKS[name](module, tensors, Rules(mode, epsilon))
    shares = torch.autograd.grad(output, list(embedded.values()), torch.tensor(start, dtype=torch.float64))
    relevance = {key: share.sum(-1).numpy() for key, share in zip(embedded, shares, strict=True)}
    return Answer(output.detach().numpy(), relevance)
