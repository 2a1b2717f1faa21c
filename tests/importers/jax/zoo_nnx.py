"""Flax models in the nnx API, of true block structure and tiny sizes: pictures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .zoo import CLASSES, SEGMENTATION, TINY, TRANSFORMER, WIDTH, Call, Example, Sizes, drawn, image, vectors

Array = Any
SAME3 = ((1, 1), (1, 1))


class Mlp(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairwise((8, WIDTH, WIDTH, CLASSES))])
        self.drop = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        *hidden, last = self.layers
        for layer in hidden:
            x = self.drop(nnx.relu(layer(x)))
        return last(x)


class LeNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(1, 4, (5, 5), rngs=rngs)
        self.conv2 = nnx.Conv(4, 6, (5, 5), padding="VALID", rngs=rngs)
        self.fc1 = nnx.Linear(24, 12, rngs=rngs)
        self.fc2 = nnx.Linear(12, 8, rngs=rngs)
        self.fc3 = nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.avg_pool(nnx.relu(self.conv1(x)), (2, 2), (2, 2))
        x = nnx.max_pool(nnx.relu(self.conv2(x)), (2, 2), (2, 2))
        x = x.reshape(x.shape[0], -1)
        return self.fc3(nnx.relu(self.fc2(nnx.relu(self.fc1(x)))))


class ConvNorm(nnx.Module):
    """Convolution without bias, then batch norm."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, *, rngs: nnx.Rngs) -> None:
        padding = (size // 2, size // 2)
        self.conv = nnx.Conv(
            inputs, outputs, (size, size), stride, padding=(padding, padding), use_bias=False, rngs=rngs
        )
        self.norm = nnx.BatchNorm(outputs, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.norm(self.conv(x))


class Residual(nnx.Module):
    """What is added to what came in, both of them convolved; a basic or a bottleneck block."""

    def __init__(self, inputs: int, width: int, stride: int, *, deep: bool, rngs: nnx.Rngs) -> None:
        outputs = 4 * width if deep else width
        sizes = [(1, 1), (3, stride), (1, 1)] if deep else [(3, stride), (3, 1)]
        widths = [inputs, width, width, outputs] if deep else [inputs, width, width]
        self.convs = nnx.List(
            [ConvNorm(a, b, *size, rngs=rngs) for (a, b), size in zip(pairwise(widths), sizes, strict=True)]
        )
        same = (inputs, stride) == (outputs, 1)
        self.downsample = None if same else ConvNorm(inputs, outputs, 1, stride, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        skip = x if self.downsample is None else self.downsample(x)
        *first, last = self.convs
        for conv in first:
            x = nnx.relu(conv(x))
        return nnx.relu(last(x) + skip)


class ResNet(nnx.Module):
    def __init__(self, depths: tuple[int, ...], *, deep: bool, width: int = 4, rngs: nnx.Rngs) -> None:
        self.stem = ConvNorm(3, width, 7, 2, rngs=rngs)
        inputs, stages = width, []
        for stage, depth in enumerate(depths):
            outputs, blocks = width * 2**stage, []
            for k in range(depth):
                blocks.append(Residual(inputs, outputs, 2 if stage and not k else 1, deep=deep, rngs=rngs))
                inputs = 4 * outputs if deep else outputs
            stages.append(nnx.List(blocks))
        self.stages = nnx.List(stages)
        self.head = nnx.Linear(inputs, CLASSES, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = nnx.max_pool(nnx.relu(self.stem(x)), (3, 3), (2, 2), SAME3)
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return self.head(x.mean((1, 2)))


class ConvNeXtBlock(nnx.Module):
    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.depthwise = nnx.Conv(width, width, (7, 7), feature_group_count=width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)
        self.gamma = nnx.Param(jnp.ones(width))

    def __call__(self, x: Array) -> Array:
        hidden = nnx.gelu(self.up(self.norm(self.depthwise(x))), approximate=False)
        return x + self.gamma * self.down(hidden)


class ConvNeXt(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 8, (2, 2), 2, rngs=rngs)
        self.stem_norm = nnx.LayerNorm(8, rngs=rngs)
        self.stage0 = nnx.List([ConvNeXtBlock(8, rngs=rngs)])
        self.between_norm = nnx.LayerNorm(8, rngs=rngs)
        self.between = nnx.Conv(8, WIDTH, (2, 2), 2, rngs=rngs)
        self.stage1 = nnx.List([ConvNeXtBlock(WIDTH, rngs=rngs)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.stem_norm(self.stem(x))
        for block in self.stage0:
            x = block(x)
        x = self.between(self.between_norm(x))
        for block in self.stage1:
            x = block(x)
        return self.head(self.norm(x.mean((1, 2))))


class Double(nnx.Module):
    """Two convolutions, as every level of a U-Net has them."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(inputs, outputs, (3, 3), rngs=rngs)
        self.second = nnx.Conv(outputs, outputs, (3, 3), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return nnx.relu(self.second(nnx.relu(self.first(x))))


class UNet(nnx.Module):
    """Two levels: one goes up by a transposed convolution, one by bilinear interpolation."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.fine, self.middle = Double(3, 4, rngs=rngs), Double(4, 6, rngs=rngs)
        self.bottom = Double(6, 8, rngs=rngs)
        self.up = nnx.ConvTranspose(8, 6, (2, 2), (2, 2), rngs=rngs)
        self.joined_middle, self.joined_fine = Double(12, 6, rngs=rngs), Double(10, 4, rngs=rngs)
        self.head = nnx.Conv(4, CLASSES, (1, 1), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        fine = self.fine(x)
        middle = self.middle(nnx.max_pool(fine, (2, 2), (2, 2)))
        bottom = self.bottom(nnx.max_pool(middle, (2, 2), (2, 2)))
        up = self.joined_middle(jnp.concatenate([middle, self.up(bottom)], -1))
        large = jax.image.resize(up, (*fine.shape[:3], up.shape[-1]), "bilinear")
        return self.head(self.joined_fine(jnp.concatenate([fine, large], -1)))


class Feedforward(nnx.Module):
    def __init__(self, sizes: Sizes = TINY, *, rngs: nnx.Rngs) -> None:
        self.up = nnx.Linear(sizes.width, sizes.hidden, rngs=rngs)
        self.down = nnx.Linear(sizes.hidden, sizes.width, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.down(nnx.gelu(self.up(x)))


class PreNorm(nnx.Module):
    """A block of a transformer that normalises what it reads."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.norm1, self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs), nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attn = nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=rngs)
        self.mlp = Feedforward(rngs=rngs)

    def __call__(self, x: Array, mask: Array | None = None) -> Array:
        x = x + self.attn(self.norm1(x), mask=mask)
        return x + self.mlp(self.norm2(x))


class ViT(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.patches = nnx.Conv(3, WIDTH, (8, 8), 8, padding="VALID", rngs=rngs)
        self.token = nnx.Param(jnp.zeros((1, 1, WIDTH)))
        self.positions = nnx.Param(jnp.zeros((1, 5, WIDTH)))
        self.blocks = nnx.List([PreNorm(rngs=rngs) for _ in range(2)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.patches(x)
        x = x.reshape(x.shape[0], -1, WIDTH)
        token = jnp.broadcast_to(self.token[...], (x.shape[0], 1, WIDTH))
        x = jnp.concatenate([token, x], 1) + self.positions[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def example(make: Callable[[nnx.Rngs], nnx.Module], call: Call) -> Example:
    """A module with drawn weights, in training mode as its user has it, and what it computes in evaluation."""
    definition, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    held = [
        (path, variable.replace(drawn(".".join(map(str, path)), *_type(variable))))
        for path, variable in nnx.to_flat_state(state)
    ]
    module, evaluated = (nnx.merge(definition, nnx.from_flat_state(held), copy=True) for _ in range(2))
    evaluated.eval()
    for _, part in nnx.iter_modules(evaluated):
        if isinstance(part, nnx.Embed):
            part.dtype = None  # otherwise that of its table when it was made
        if isinstance(part, nnx.RNNCellBase):
            part.param_dtype = float  # as wide as JAX has them
    fixed, weights = nnx.split(evaluated)

    def function(weights: Any, *args: Any, **kwargs: Any) -> Any:
        return nnx.merge(fixed, weights, copy=True)(*args, **kwargs)

    return Example(module, function, weights, call)


def _type(variable: Any) -> tuple[tuple[int, ...], Any]:
    value = variable.get_value()
    return value.shape, value.dtype


PICTURES: dict[str, Callable[[], Example]] = {
    "mlp": lambda: example(Mlp, Call(vectors(8))),
    "lenet": lambda: example(LeNet, Call(image(16, 1))),
    "resnet18": lambda: example(lambda rngs: ResNet((2, 2, 2, 2), deep=False, rngs=rngs), Call(image(32))),
    "resnet50": lambda: example(lambda rngs: ResNet((2, 2), deep=True, rngs=rngs), Call(image(16))),
    "convnext": lambda: example(ConvNeXt, Call(image(16))),
    "unet": lambda: example(UNet, Call(image(8), settings=SEGMENTATION)),
    "vit": lambda: example(ViT, Call(image(16), third=TRANSFORMER)),
}
