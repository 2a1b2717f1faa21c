"""The same Flax models in the linen API: pictures. Modules have the same names, so that weights are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from .zoo import CLASSES, SEGMENTATION, TRANSFORMER, WIDTH, Call, Example, arguments, drawn, image, vectors

Array = Any
SAME3 = ((1, 1), (1, 1))


class Mlp(nn.Module):
    def setup(self) -> None:
        self.layers = [nn.Dense(size) for size in (WIDTH, WIDTH, CLASSES)]
        self.drop = nn.Dropout(0.2, deterministic=True)

    def __call__(self, x: Array) -> Array:
        *hidden, last = self.layers
        for layer in hidden:
            x = self.drop(nn.relu(layer(x)))
        return last(x)


class LeNet(nn.Module):
    """Written in one piece, as linen allows it."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.avg_pool(nn.relu(nn.Conv(4, (5, 5), name="conv1")(x)), (2, 2), (2, 2))
        x = nn.max_pool(nn.relu(nn.Conv(6, (5, 5), padding="VALID", name="conv2")(x)), (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(12, name="fc1")(x))
        return nn.Dense(CLASSES, name="fc3")(nn.relu(nn.Dense(8, name="fc2")(x)))


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm."""

    outputs: int
    size: int
    stride: int = 1

    def setup(self) -> None:
        padding = (self.size // 2, self.size // 2)
        self.conv = nn.Conv(
            self.outputs, (self.size, self.size), self.stride, padding=(padding, padding), use_bias=False
        )
        self.norm = nn.BatchNorm(use_running_average=True)

    def __call__(self, x: Array) -> Array:
        return self.norm(self.conv(x))


class Residual(nn.Module):
    """What is added to what came in, both of them convolved; a basic or a bottleneck block."""

    inputs: int
    width: int
    stride: int
    deep: bool

    def setup(self) -> None:
        outputs = 4 * self.width if self.deep else self.width
        sizes = [(1, 1), (3, self.stride), (1, 1)] if self.deep else [(3, self.stride), (3, 1)]
        widths = [self.width, self.width, outputs] if self.deep else [self.width, self.width]
        self.convs = [ConvNorm(width, *size) for width, size in zip(widths, sizes, strict=True)]
        same = (self.inputs, self.stride) == (outputs, 1)
        self.downsample = None if same else ConvNorm(outputs, 1, self.stride)

    def __call__(self, x: Array) -> Array:
        skip = x if self.downsample is None else self.downsample(x)
        *first, last = self.convs
        for conv in first:
            x = nn.relu(conv(x))
        return nn.relu(last(x) + skip)


class ResNet(nn.Module):
    depths: tuple[int, ...]
    deep: bool
    width: int = 4

    def setup(self) -> None:
        self.stem = ConvNorm(self.width, 7, 2)
        inputs, stages = self.width, []
        for stage, depth in enumerate(self.depths):
            outputs, blocks = self.width * 2**stage, []
            for k in range(depth):
                blocks.append(Residual(inputs, outputs, 2 if stage and not k else 1, self.deep))
                inputs = 4 * outputs if self.deep else outputs
            stages.append(blocks)
        self.stages = stages
        self.head = nn.Dense(CLASSES)

    def __call__(self, x: Array) -> Array:
        x = nn.max_pool(nn.relu(self.stem(x)), (3, 3), (2, 2), SAME3)
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return self.head(x.mean((1, 2)))


class ConvNeXtBlock(nn.Module):
    width: int

    def setup(self) -> None:
        self.depthwise = nn.Conv(self.width, (7, 7), feature_group_count=self.width)
        self.norm = nn.LayerNorm()
        self.up, self.down = nn.Dense(4 * self.width), nn.Dense(self.width)
        self.gamma = self.param("gamma", nn.initializers.ones, (self.width,))

    def __call__(self, x: Array) -> Array:
        hidden = nn.gelu(self.up(self.norm(self.depthwise(x))), approximate=False)
        return x + self.gamma * self.down(hidden)


class ConvNeXt(nn.Module):
    def setup(self) -> None:
        self.stem, self.stem_norm = nn.Conv(8, (2, 2), 2), nn.LayerNorm()
        self.stage0 = [ConvNeXtBlock(8)]
        self.between_norm, self.between = nn.LayerNorm(), nn.Conv(WIDTH, (2, 2), 2)
        self.stage1 = [ConvNeXtBlock(WIDTH)]
        self.norm, self.head = nn.LayerNorm(), nn.Dense(CLASSES)

    def __call__(self, x: Array) -> Array:
        x = self.stem_norm(self.stem(x))
        for block in self.stage0:
            x = block(x)
        x = self.between(self.between_norm(x))
        for block in self.stage1:
            x = block(x)
        return self.head(self.norm(x.mean((1, 2))))


class Double(nn.Module):
    """Two convolutions, as every level of a U-Net has them."""

    outputs: int

    def setup(self) -> None:
        self.first, self.second = nn.Conv(self.outputs, (3, 3)), nn.Conv(self.outputs, (3, 3))

    def __call__(self, x: Array) -> Array:
        return nn.relu(self.second(nn.relu(self.first(x))))


class UNet(nn.Module):
    """Two levels: one goes up by a transposed convolution, one by bilinear interpolation."""

    def setup(self) -> None:
        self.fine, self.middle, self.bottom = Double(4), Double(6), Double(8)
        self.up = nn.ConvTranspose(6, (2, 2), (2, 2))
        self.joined_middle, self.joined_fine = Double(6), Double(4)
        self.head = nn.Conv(CLASSES, (1, 1))

    def __call__(self, x: Array) -> Array:
        fine = self.fine(x)
        middle = self.middle(nn.max_pool(fine, (2, 2), (2, 2)))
        bottom = self.bottom(nn.max_pool(middle, (2, 2), (2, 2)))
        up = self.joined_middle(jnp.concatenate([middle, self.up(bottom)], -1))
        large = jax.image.resize(up, (*fine.shape[:3], up.shape[-1]), "bilinear")
        return self.head(self.joined_fine(jnp.concatenate([fine, large], -1)))


class Feedforward(nn.Module):
    def setup(self) -> None:
        self.up, self.down = nn.Dense(2 * WIDTH), nn.Dense(WIDTH)

    def __call__(self, x: Array) -> Array:
        return self.down(nn.gelu(self.up(x)))


class PreNorm(nn.Module):
    """A block of a transformer that normalises what it reads."""

    def setup(self) -> None:
        self.norm1, self.norm2 = nn.LayerNorm(), nn.LayerNorm()
        self.attn = nn.MultiHeadDotProductAttention(2)
        self.mlp = Feedforward()

    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        x = x + self.attn(self.norm1(x), mask=mask)
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def setup(self) -> None:
        self.patches = nn.Conv(WIDTH, (8, 8), 8, padding="VALID")
        self.token = self.param("token", nn.initializers.zeros, (1, 1, WIDTH))
        self.positions = self.param("positions", nn.initializers.zeros, (1, 5, WIDTH))
        self.blocks = [PreNorm() for _ in range(2)]
        self.norm, self.head = nn.LayerNorm(), nn.Dense(CLASSES)

    def __call__(self, x: Array) -> Array:
        x = self.patches(x)
        x = x.reshape(x.shape[0], -1, WIDTH)
        token = jnp.broadcast_to(self.token, (x.shape[0], 1, WIDTH))
        x = jnp.concatenate([token, x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def example(module: nn.Module, call: Call) -> Example:
    """A module with drawn variables."""
    args, kwargs = arguments(call.inputs)
    shapes = jax.eval_shape(lambda key: module.init(key, *args, **kwargs), jax.random.key(0))
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: drawn(".".join(key.key for key in path[1:]), leaf.shape, leaf.dtype), shapes
    )
    return Example((module, variables), module.apply, variables, call)


PICTURES: dict[str, Callable[[], Example]] = {
    "mlp": lambda: example(Mlp(), Call(vectors(8))),
    "lenet": lambda: example(LeNet(), Call(image(16, 1))),
    "resnet18": lambda: example(ResNet((2, 2, 2, 2), deep=False), Call(image(32))),
    "resnet50": lambda: example(ResNet((2, 2), deep=True), Call(image(16))),
    "convnext": lambda: example(ConvNeXt(), Call(image(16))),
    "unet": lambda: example(UNet(), Call(image(8), settings=SEGMENTATION)),
    "vit": lambda: example(ViT(), Call(image(16), third=TRANSFORMER)),
}
