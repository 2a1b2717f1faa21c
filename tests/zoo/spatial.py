"""Models that say where in a picture something is: segmentation and bounding boxes."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.recipe import Recipe, images


def _double(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3 x 3 convolutions, the unit U-Nets are made of."""
    first = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*first, nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU())


class UNet(nn.Module):
    """Encoder and decoder with concatenated skips (Ronneberger et al. 2015), two levels deep.

    Transposed convolutions double the resolution, by kernels side by side (2 x 2) or overlapping (3 x 3).
    """

    def __init__(self, outputs: int, *, overlapping: bool) -> None:
        super().__init__()
        kernel = {"kernel_size": 3, "padding": 1, "output_padding": 1} if overlapping else {"kernel_size": 2}
        self.down1, self.down2, self.bottom = _double(3, 8), _double(8, 16), _double(16, 32)
        self.pool = nn.MaxPool2d(2)
        self.up2, self.up1 = (nn.ConvTranspose2d(2 * width, width, stride=2, **kernel) for width in (16, 8))
        self.merge2, self.merge1 = _double(32, 16), _double(16, 8)
        self.head = nn.Conv2d(8, outputs, 1)

    def forward(self, input: Tensor) -> Tensor:
        fine = self.down1(input)
        middle = self.down2(self.pool(fine))
        coarse = self.bottom(self.pool(middle))
        middle = self.merge2(torch.cat([middle, self.up2(coarse)], 1))
        return self.head(self.merge1(torch.cat([fine, self.up1(middle)], 1)))


def unet() -> Recipe:
    """Binary segmentation: a probability per pixel, [batch, 1, 32, 32]."""
    return Recipe(nn.Sequential(UNet(1, overlapping=False), nn.Sigmoid()), {"input": images(32)})


def unet_classes() -> Recipe:
    """Segmentation into four classes: logits per pixel, [batch, 4, 24, 24]."""
    return Recipe(UNet(4, overlapping=True), {"input": images(24)})


class BoxRegression(nn.Module):
    """Strided convolutions, then a dense head for the four numbers of a box."""

    def __init__(self) -> None:
        super().__init__()
        widths = pairwise((3, 8, 16, 16))
        self.convolutions = nn.ModuleList(nn.Conv2d(*pair, 3, stride=2, padding=1) for pair in widths)
        self.hidden, self.box = nn.Linear(16 * 16, 32), nn.Linear(32, 4)

    def forward(self, input: Tensor) -> Tensor:
        hidden = input
        for convolution in self.convolutions:
            hidden = functional.relu(convolution(hidden))
        return self.box(functional.relu(self.hidden(torch.flatten(hidden, 1))))


def bbox_cnn() -> Recipe:
    """One bounding box per picture, unbounded numbers, [batch, 4]."""
    return Recipe(BoxRegression(), {"input": images(32)})


RECIPES = {recipe.__name__: recipe for recipe in (unet, unet_classes, bbox_cnn)}
