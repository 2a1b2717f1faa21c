"""Small networks of real block structure as torch modules; pictures and series come channels last, as twins take them.

A submodule's name is the name of the weights (`weights.npz`) in every framework.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .weights import HEADS, LENGTH, WIDTH, WORDS, angles, weights_of

HALF = WIDTH // HEADS // 2


def channels_first(x: Tensor) -> Tensor:
    return x.permute(0, x.ndim - 1, *range(1, x.ndim - 1))


class Mlp(nn.Module):
    """Batch norm ahead of one activation and behind another."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.bn1, self.fc2, self.bn2, self.fc3 = (
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 5), nn.BatchNorm1d(5), nn.Linear(5, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.fc1(x)).relu()
        x = self.bn2(self.fc2(x).tanh())
        return self.fc3(x).softmax(-1)


class Resnet(nn.Module):
    """A stem, a residual block, a dense head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv3, self.bn3 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.bn1(self.conv1(channels_first(x))).relu(), 2)
        h = self.bn2(self.conv2(x)).relu()
        x = (self.bn3(self.conv3(h)) + x).relu()
        return self.fc(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Series(nn.Module):
    """1-D convolutions over time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2 = nn.Conv1d(3, 5, 3, padding=1), nn.BatchNorm1d(5), nn.Conv1d(5, 4, 3)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool1d(self.bn1(self.conv1(channels_first(x))).relu(), 2)
        return self.fc(functional.elu(self.conv2(x)).mean(-1))


class Mobile(nn.Module):
    """An inverted residual: expansion, depthwise convolution, squeeze and excite, projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 1, bias=False)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(6), nn.BatchNorm2d(6), nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.squeeze, self.excite, self.project = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1), nn.Conv2d(6, 4, 1, bias=False)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(channels_first(x))
        h = functional.silu(self.bn1(self.expand(x)))
        h = functional.silu(self.bn2(self.depthwise(h)))
        gate = functional.silu(self.squeeze(h.mean((2, 3), keepdim=True)))
        h = h * self.excite(gate).sigmoid()
        x = x + self.bn3(self.project(h))
        return self.fc(x.mean((2, 3)))


class Convnext(nn.Module):
    """Depthwise convolution, layer norm over channels, dense layers at every place, a scale per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(2, 4, 2, stride=2), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm1, self.fc1, self.fc2 = nn.LayerNorm(4, eps=1e-6), nn.Linear(4, 8), nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.ones(4))
        self.norm2, self.fc = nn.LayerNorm(4, eps=1e-6), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(channels_first(x))
        h = self.norm1(self.depthwise(x).permute(0, 2, 3, 1))
        h = self.fc2(functional.gelu(self.fc1(h))) * self.scale
        x = x + h.permute(0, 3, 1, 2)
        return self.fc(self.norm2(x.mean((2, 3))))


class Unet(nn.Module):
    """Down, up by a transposed convolution, a skip by concatenation, a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.up, self.join = nn.ConvTranspose2d(4, 3, 2, stride=2), nn.Conv2d(6, 3, 3, padding=1)
        self.mask = nn.Conv2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(channels_first(x)).relu()
        b = self.down2(functional.max_pool2d(a, 2)).relu()
        h = self.join(torch.cat([self.up(b), a], 1)).relu()
        return self.mask(h).sigmoid().permute(0, 2, 3, 1)


class Lstm(nn.Module):
    """The last state of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.fc = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.cell(x)[0][:, -1])


class Gru(nn.Module):
    """The mean over time of a GRU's states."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.fc = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.cell(x)[0].mean(1))


class Attention(nn.Module):
    """Softmax attention as transformers spells it."""

    def __init__(self, bias: bool = True, fused: bool = False) -> None:
        super().__init__()
        self.fused = fused
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH, bias=bias) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor | None = None, turn=lambda heads: heads) -> Tensor:
        def heads(y: Tensor) -> Tensor:
            return y.view(*y.shape[:2], HEADS, -1).transpose(1, 2)

        q, k, v = turn(heads(self.query(x))), turn(heads(self.key(x))), heads(self.value(x))
        if self.fused:
            return self.output(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))
        scores = q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)
        scores = scores if mask is None else scores + mask
        return self.output((scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape))


def causal(x: Tensor) -> Tensor:
    return torch.full((LENGTH, LENGTH), -1e9, dtype=x.dtype).triu(1)


class Bert(nn.Module):
    """Words, positions, a post-norm block, the first token's class."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Parameter(torch.randn(1, LENGTH, WIDTH))
        self.attention, self.fc1, self.fc2 = Attention(), nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH, eps=1e-5) for _ in range(3))
        self.fc = nn.Linear(WIDTH, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm1(self.words(ids) + self.places)
        x = self.norm2(self.attention(x) + x)
        x = self.norm3(self.fc2(functional.gelu(self.fc1(x))) + x)
        return self.fc(x[:, 0])


class Gpt(nn.Module):
    """A causal pre-norm block with GELU by tanh, scores of the next token."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Parameter(torch.randn(1, LENGTH, WIDTH))
        self.attention, self.fc1, self.fc2 = Attention(), nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH, eps=1e-5) for _ in range(3))
        self.fc = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places
        x = x + self.attention(self.norm1(x), causal(x))
        x = x + self.fc2(functional.gelu(self.fc1(self.norm2(x)), approximate="tanh"))
        return self.fc(self.norm3(x)[:, -1])


class RmsNorm(nn.Module):
    """As transformers spells it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Llama(nn.Module):
    """A causal block with RMS norms, turned queries and keys, a gated dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.attention = nn.Embedding(WORDS, WIDTH), Attention(bias=False)
        self.gate, self.up, self.down = (
            nn.Linear(*size, bias=False) for size in ((WIDTH, 12), (WIDTH, 12), (12, WIDTH))
        )
        self.norm1, self.norm2, self.norm3 = RmsNorm(), RmsNorm(), RmsNorm()
        self.fc = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        turns = torch.tensor(angles()).to(x.dtype)

        def turn(y: Tensor) -> Tensor:
            return y * turns.cos() + torch.cat([-y[..., HALF:], y[..., :HALF]], -1) * turns.sin()

        x = x + self.attention(self.norm1(x), causal(x), turn)
        h = self.norm2(x)
        x = x + self.down(functional.silu(self.gate(h)) * self.up(h))
        return self.fc(self.norm3(x)[:, -1])


class Vit(nn.Module):
    """Patches as tokens behind a token of their class, a pre-norm block with torch's fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.first = nn.Conv2d(1, WIDTH, 2, stride=2), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.places = nn.Parameter(torch.randn(1, 5, WIDTH))
        self.attention, self.fc1, self.fc2 = Attention(fused=True), nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(WIDTH, eps=1e-5) for _ in range(3))
        self.fc = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(channels_first(x)).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.places
        x = x + self.attention(self.norm1(x))
        x = x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        return self.fc(self.norm3(x)[:, 0])


NETWORKS: dict[str, type[nn.Module]] = {
    each.__name__.lower(): each
    for each in (Mlp, Resnet, Series, Mobile, Convnext, Unet, Lstm, Gru, Bert, Gpt, Llama, Vit)
}


def build(name: str) -> nn.Module:
    """A network with the weights of `weights.npz`, in evaluation mode."""
    module = NETWORKS[name]().eval().requires_grad_(False)
    module.load_state_dict({key: torch.tensor(array) for key, array in weights_of(name).items()})
    return module
