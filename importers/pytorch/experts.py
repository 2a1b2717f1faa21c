"""Mixtures of experts in a form that does not depend on the routing: every expert runs, the router's weights decide.

A loop over the experts that were hit cannot be exported, or is frozen at the routing of one example. Here each expert
is a module of its own for as long as the export takes (`experts.3`), whose answer is already weighted, zero where the
router chose others; so relevance per expert is relevance of a module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

Route = tuple[torch.Tensor, torch.Tensor]
"""Experts chosen for each token [tokens, k] and their weights [tokens, k]."""


class Linear(torch.nn.Module):
    """One expert's slice of stacked weights."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, transposed: bool) -> None:
        """Take the slice [out, in], or [in, out] where transposed."""
        super().__init__()
        self.register_buffer("weight", weight.T if transposed else weight)
        self.register_buffer("bias", bias)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The linear map of values [tokens, in]."""
        return functional.linear(values, self.weight, self.bias)  # type: ignore[arg-type]


class Expert(torch.nn.Module):
    """One expert: up, activation (of a gate), down, times its weight for each token."""

    def __init__(self, up: Linear, activate: Callable[[Any], Any], down: Linear, after: Callable[[Any], Any]) -> None:
        """Take the two maps, and what comes after each."""
        super().__init__()
        self.up, self.down = up, down
        self._activate, self._after = (activate,), (after,)  # in tuples, or torch takes modules for children

    def forward(self, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Its weighted answer [tokens, out] to values [tokens, in], given weights [tokens, 1]."""
        return self._after[0](self.down(self._activate[0](self.up(values)))) * weight


class Weighted(torch.nn.Module):
    """One expert of an attention: its map of what each of a token's heads found, weighted and added up."""

    def __init__(self, linear: Linear) -> None:
        """Take the map."""
        super().__init__()
        self.linear = linear

    def forward(self, values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Its answer [tokens, out] to values [tokens, k, in], given weights [tokens, k, 1]."""
        return (self.linear(values) * weight).sum(1)


def _weight(route: Route, expert: int) -> torch.Tensor:
    """The router's weight of one expert for every token, [tokens, 1]."""
    chosen, weights = route
    return torch.where(chosen == expert, weights, torch.zeros_like(weights)).sum(-1, keepdim=True)


def _same(values: Any) -> Any:
    return values


def is_stacked(part: torch.nn.Module) -> bool:
    """Whether these are experts in stacked weights, as transformers keeps them."""
    marks = ("has_gate", "has_bias", "is_transposed", "_apply_gate", "down_proj", "num_experts")
    return all(hasattr(part, mark) for mark in marks)


def substitute_stacked(part: Any) -> None:
    """Run stacked experts one by one, each on all tokens."""
    name = "gate_up_proj" if part.has_gate else "up_proj"
    activate = part._apply_gate if part.has_gate else part.act_fn
    after = part.post_expert_norm if getattr(part, "has_post_expert_norm", False) else _same
    for expert in range(part.num_experts):
        up, down = (_slice(part, each, expert) for each in (name, "down_proj"))
        part._modules[str(expert)] = Expert(up, activate, down, after)

    def forward(
        hidden_states: torch.Tensor, top_k_index: Any = None, top_k_weights: Any = None, **named: Any
    ) -> torch.Tensor:
        route = named.get("router_indices", top_k_index), named.get("routing_weights", top_k_weights)
        parts = [part._modules[str(e)](hidden_states, _weight(route, e)) for e in range(part.num_experts)]
        return torch.stack(parts).sum(0).to(hidden_states.dtype)

    part.forward = forward


def _slice(part: Any, name: str, expert: int) -> Linear:
    bias = getattr(part, f"{name}_bias")[expert].detach() if part.has_bias else None
    return Linear(getattr(part, name)[expert].detach(), bias, transposed=part.is_transposed)


def substitute_gating(part: Any) -> None:
    """JetMoE's router without sorting tokens by expert: experts chosen, weights, and the logits where they were."""

    def forward(hidden_states: torch.Tensor) -> tuple[Any, ...]:
        logits = part.layer(hidden_states).float()
        best, chosen = logits.topk(part.top_k, dim=1)
        return chosen, torch.softmax(best, dim=1).type_as(hidden_states), None, None, logits

    part.forward = forward


def substitute_mixture(part: Any) -> None:
    """JetMoE's feed-forward experts, each on all tokens."""
    count = part.input_linear.num_experts

    def activate(values: torch.Tensor) -> torch.Tensor:
        gate, up = values.chunk(2, dim=-1)
        return part.activation(gate) * up

    part._modules["experts"] = torch.nn.ModuleList(
        Expert(_parallel(part.input_linear, e), activate, _parallel(part.output_linear, e), _same) for e in range(count)
    )

    def forward(layer_input: torch.Tensor) -> torch.Tensor:
        tokens = layer_input.reshape(-1, layer_input.shape[-1])
        route = part.router(tokens)[:2]
        parts = [part._modules["experts"][e](tokens, _weight(route, e)) for e in range(count)]
        return torch.stack(parts).sum(0).reshape(layer_input.shape) + part.bias

    part.forward = forward


def substitute_attention(part: Any) -> None:
    """JetMoE's attention experts: every token has k queries, each by the expert of that rank."""
    part._modules["queries"] = torch.nn.ModuleList(_parallel(part.input_linear, e) for e in range(part.num_experts))
    part._modules["answers"] = torch.nn.ModuleList(
        Weighted(_parallel(part.output_linear, e)) for e in range(part.num_experts)
    )
    part.map, part.reduce = _queries(part), _answers(part)


def _queries(part: Any) -> Callable[..., Any]:
    def forward(layer_input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Route]:
        batch, length, width = layer_input.shape
        tokens = layer_input.reshape(-1, width)
        chosen, weights, _, _, logits = part.router(tokens)
        parts = [
            (chosen == e).to(tokens.dtype).unsqueeze(-1) * part._modules["queries"][e](tokens).unsqueeze(1)
            for e in range(part.num_experts)
        ]
        return torch.stack(parts).sum(0).reshape(batch, length, part.top_k, -1), logits, (chosen, weights)

    return forward


def _answers(part: Any) -> Callable[..., Any]:
    def forward(layer_input: torch.Tensor, route: Route) -> torch.Tensor:
        batch, length, ranks, width = layer_input.shape
        values, (chosen, weights) = layer_input.reshape(-1, ranks, width), route
        nothing = torch.zeros_like(weights)
        parts = [
            part._modules["answers"][e](values, torch.where(chosen == e, weights, nothing).unsqueeze(-1))
            for e in range(part.num_experts)
        ]
        return torch.stack(parts).sum(0).reshape(batch, length, part.input_size) + part.bias

    return forward


def _parallel(part: Any, expert: int) -> Linear:
    return Linear(part.weight[expert].detach(), None, transposed=False)
