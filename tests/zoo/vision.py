"""Vision models with the block structure of their papers, small enough to test, in plain torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.recipe import BATCH, Recipe, images


def mlp() -> Recipe:
    """A table of 16 features through two hidden layers."""
    module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 5))
    return Recipe(module, {"input": np.random.default_rng(0).normal(size=(BATCH, 16)).astype(np.float32)})


def lenet() -> Recipe:
    """LeNet-5 as published: tanh and average pooling."""
    return _lenet(nn.Tanh, nn.AvgPool2d)


def lenet_relu() -> Recipe:
    """LeNet-5 as taught: ReLU and max pooling."""
    return _lenet(nn.ReLU, nn.MaxPool2d)


def _lenet(activation: type[nn.Module], pool: type[nn.Module]) -> Recipe:
    """LeNet-5 (LeCun et al. 1998) for 28 x 28 digits."""
    first = [nn.Conv2d(1, 6, 5, padding=2), activation(), pool(2)]
    second = [nn.Conv2d(6, 16, 5), activation(), pool(2)]
    dense = [nn.Linear(400, 120), activation(), nn.Linear(120, 84), activation(), nn.Linear(84, 10)]
    return Recipe(nn.Sequential(*first, *second, nn.Flatten(), *dense), {"input": images(28, channels=1)})


def vgg_small() -> Recipe:
    """VGG: pairs of 3 x 3 convolutions, max pooling, a dense classifier; no normalisation anywhere."""
    layers, channels = [], 3
    for width in (8, 16, 32):
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2, 2))
    head = [nn.Linear(channels * 16, 64), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(64, 10)]
    return Recipe(nn.Sequential(*layers, nn.Flatten(), *head), {"input": images(32)})


def _convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = None,
) -> nn.Sequential:
    """Convolution without bias, batch norm and, if given, an activation."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    layers = [convolution, nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([activation()] if activation else []))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a skip connection (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.downsample = None if same else _convolution(inputs, outputs, 1, stride=stride)

    def damp(self) -> None:
        """Scale both branches down, as training does; otherwise activations double in every block."""
        nn.init.uniform_(self.bn2.weight, 0.3, 0.6)
        if self.downsample is not None:
            nn.init.uniform_(self.downsample[1].weight, 0.3, 0.9)

    def forward(self, input: Tensor) -> Tensor:
        skip = input if self.downsample is None else self.downsample(input)
        hidden = self.relu(self.bn1(self.conv1(input)))
        return self.relu(self.bn2(self.conv2(hidden)) + skip)


class ResNet(nn.Module):
    """The ResNet of basic blocks, its modules named as in torchvision (`layer4.1.conv2`)."""

    def __init__(self, width: int, blocks: Sequence[int], classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels, self.stages = width, [f"layer{number}" for number in range(1, len(blocks) + 1)]
        for stage, (name, count) in enumerate(zip(self.stages, blocks, strict=True)):
            wide = width * 2**stage
            first = BasicBlock(channels, wide, 1 if stage == 0 else 2)
            setattr(self, name, nn.Sequential(first, *(BasicBlock(wide, wide, 1) for _ in range(count - 1))))
            channels = wide
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, input: Tensor) -> Tensor:
        hidden = self.maxpool(self.relu(self.bn1(self.conv1(input))))
        for name in self.stages:
            hidden = getattr(self, name)(hidden)
        return self.fc(torch.flatten(self.avgpool(hidden), 1))


def resnet(*, width: int = 64, blocks: Sequence[int] = (2, 2, 2, 2), image: int = 224, classes: int = 1000) -> Recipe:
    """A ResNet of any size; the default is ResNet-18 for ImageNet."""
    return Recipe(ResNet(width, blocks, classes), {"input": images(image)})


def resnet18() -> Recipe:
    """ResNet-18 at full width and resolution."""
    return resnet()


def resnet_small() -> Recipe:
    """Two stages of a thin ResNet, both kinds of skip connection included."""
    return resnet(width=8, blocks=(2, 2), image=32, classes=10)


class SqueezeExcite(nn.Module):
    """Channels gated by a function of their global averages (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int, functions: Sequence[type[nn.Module]]) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation, self.gate = (function() for function in functions)

    def forward(self, input: Tensor) -> Tensor:
        return self.gate(self.fc2(self.activation(self.fc1(self.avgpool(input))))) * input


class InvertedResidual(nn.Module):
    """Expand, depthwise, optionally squeeze-excite, project; a skip where the shape stays (MBConv)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        expand: int,
        kernel: int,
        stride: int,
        activation: type[nn.Module],
        excite: Sequence[type[nn.Module]] = (),
    ) -> None:
        super().__init__()
        wide = inputs * expand
        layers = [] if expand == 1 else [_convolution(inputs, wide, 1, activation=activation)]
        layers.append(_convolution(wide, wide, kernel, stride=stride, groups=wide, activation=activation))
        if excite:
            layers.append(SqueezeExcite(wide, max(1, inputs // 4), excite))
        self.block = nn.Sequential(*layers, _convolution(wide, outputs, 1))
        self.skip = stride == 1 and inputs == outputs

    def forward(self, input: Tensor) -> Tensor:
        return self.block(input) + input if self.skip else self.block(input)


class MobileNet(nn.Module):
    """A stem, inverted residual blocks, a 1 x 1 convolution, global average pooling and a classifier."""

    def __init__(self, blocks: Sequence[dict], *, activation: type[nn.Module]) -> None:
        super().__init__()
        self.stem = _convolution(3, blocks[0]["inputs"], 3, stride=2, activation=activation)
        parts = (InvertedResidual(**{"activation": activation, **block}) for block in blocks)
        self.blocks = nn.Sequential(*parts)
        self.last = _convolution(blocks[-1]["outputs"], 64, 1, activation=activation)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, 10))

    def forward(self, input: Tensor) -> Tensor:
        hidden = self.last(self.blocks(self.stem(input)))
        return self.classifier(torch.flatten(self.avgpool(hidden), 1))


def efficientnet() -> Recipe:
    """EfficientNet (Tan & Le 2019): SiLU, squeeze-excite, 3 x 3 and 5 x 5 depthwise convolutions."""
    blocks = [
        {"inputs": 8, "outputs": 8, "expand": 1, "kernel": 3, "stride": 1},
        {"inputs": 8, "outputs": 12, "expand": 6, "kernel": 3, "stride": 2},
        {"inputs": 12, "outputs": 12, "expand": 6, "kernel": 3, "stride": 1},
        {"inputs": 12, "outputs": 16, "expand": 6, "kernel": 5, "stride": 2},
    ]
    blocks = [{**block, "excite": (nn.SiLU, nn.Sigmoid)} for block in blocks]
    return Recipe(MobileNet(blocks, activation=nn.SiLU), {"input": images(32)})


def mobilenet_v2() -> Recipe:
    """MobileNetV2 (Sandler et al. 2018): ReLU6, linear bottlenecks."""
    blocks = [
        {"inputs": 8, "outputs": 8, "expand": 1, "kernel": 3, "stride": 1},
        {"inputs": 8, "outputs": 12, "expand": 6, "kernel": 3, "stride": 2},
        {"inputs": 12, "outputs": 12, "expand": 6, "kernel": 3, "stride": 1},
    ]
    return Recipe(MobileNet(blocks, activation=nn.ReLU6), {"input": images(32)})


def mobilenet_v3() -> Recipe:
    """MobileNetV3 (Howard et al. 2019): ReLU, then hard swish; some blocks with hard squeeze-excite."""
    excite = (nn.ReLU, nn.Hardsigmoid)
    blocks = [
        {"inputs": 8, "outputs": 8, "expand": 1, "kernel": 3, "stride": 1, "activation": nn.ReLU, "excite": excite},
        {"inputs": 8, "outputs": 12, "expand": 4, "kernel": 3, "stride": 2, "activation": nn.ReLU},
        {"inputs": 12, "outputs": 16, "expand": 4, "kernel": 5, "stride": 2, "excite": excite},
        {"inputs": 16, "outputs": 16, "expand": 6, "kernel": 5, "stride": 1, "excite": excite},
    ]
    return Recipe(MobileNet(blocks, activation=nn.Hardswish), {"input": images(32)})


class DenseLayer(nn.Module):
    """Pre-activation bottleneck whose output is concatenated to its input (Huang et al. 2017)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(2 * growth)
        self.conv1 = nn.Conv2d(inputs, 2 * growth, 1, bias=False)
        self.conv2 = nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        hidden = self.conv1(functional.relu(self.norm1(input)))
        return torch.cat([input, self.conv2(functional.relu(self.norm2(hidden)))], 1)


def densenet() -> Recipe:
    """Two dense blocks around a transition that halves channels and resolution."""
    stem = [_convolution(3, 8, 7, stride=2, activation=nn.ReLU), nn.MaxPool2d(3, 2, 1)]
    first = [DenseLayer(8 + 4 * number, 4) for number in range(3)]
    transition = [nn.BatchNorm2d(20), nn.ReLU(), nn.Conv2d(20, 10, 1, bias=False), nn.AvgPool2d(2)]
    second = [DenseLayer(10 + 4 * number, 4) for number in range(2)]
    head = [nn.BatchNorm2d(18), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(18, 10)]
    return Recipe(nn.Sequential(*stem, *first, *transition, *second, *head), {"input": images(32)})


class Attention(nn.Module):
    """Multi-head self-attention, spelled out or through torch's fused function."""

    def __init__(self, width: int, heads: int, *, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, input: Tensor) -> Tensor:
        batch, tokens, width = input.shape
        parts = self.qkv(input).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            mixed = functional.scaled_dot_product_attention(query, key, value)
        else:
            scores = query @ key.transpose(-2, -1) / math.sqrt(width // self.heads)
            mixed = scores.softmax(-1) @ value
        return self.project(mixed.transpose(1, 2).reshape(batch, tokens, width))


class TorchAttention(nn.Module):
    """The same through `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, input: Tensor) -> Tensor:
        return self.attention(input, input, input, need_weights=False)[0]


class EncoderBlock(nn.Module):
    """Pre-norm transformer block with a GELU feed-forward part."""

    def __init__(self, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), attention, nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, input: Tensor) -> Tensor:
        hidden = input + self.attention(self.norm1(input))
        return hidden + self.mlp(self.norm2(hidden))


class VisionTransformer(nn.Module):
    """Patches, a class token, position embeddings and encoder blocks (Dosovitskiy et al. 2021)."""

    def __init__(self, attentions: Sequence[nn.Module], width: int, image: int, patch: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, (image // patch) ** 2 + 1, width) / 2)
        self.blocks = nn.Sequential(*(EncoderBlock(width, attention) for attention in attentions))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, input: Tensor) -> Tensor:
        patches = self.patches(input).flatten(2).transpose(1, 2)
        token = self.class_token.expand(input.shape[0], -1, -1)
        hidden = self.blocks(torch.cat([token, patches], 1) + self.positions)
        return self.head(self.norm(hidden)[:, 0])


def _vit(*attentions: nn.Module) -> Recipe:
    """A vision transformer of one block per attention, 32 wide, 16 patches of 8 x 8 pixels."""
    return Recipe(VisionTransformer(attentions, 32, 32, 8), {"input": images(32)})


def vit() -> Recipe:
    """Vision transformer with attention written op by op."""
    return _vit(Attention(32, 4, fused=False), Attention(32, 4, fused=False))


def vit_sdpa() -> Recipe:
    """Vision transformer with `scaled_dot_product_attention`."""
    return _vit(Attention(32, 4, fused=True), Attention(32, 4, fused=True))


def vit_mha() -> Recipe:
    """Vision transformer with `nn.MultiheadAttention`."""
    return _vit(TorchAttention(32, 4), TorchAttention(32, 4))


RECIPES = {
    recipe.__name__: recipe
    for recipe in (
        mlp,
        lenet,
        lenet_relu,
        vgg_small,
        resnet18,
        resnet_small,
        efficientnet,
        mobilenet_v2,
        mobilenet_v3,
        densenet,
        vit,
        vit_sdpa,
        vit_mha,
    )
}
