"""The networks as plain torch modules, for workers in environments that have torch and little else.

States are named as in torchvision and transformers: some peers need their classes, and get the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Digits(nn.Module):
    """Two convolutions with max pooling and two dense layers, for 8 x 8 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1, self.pool1 = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        self.conv2, self.relu2, self.pool2 = nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        self.fc1, self.relu3, self.fc2 = nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)

    def forward(self, input: Tensor) -> Tensor:
        hidden = self.pool1(self.relu1(self.conv1(input)))
        hidden = self.pool2(self.relu2(self.conv2(hidden)))
        return self.fc2(self.relu3(self.fc1(torch.flatten(hidden, 1))))


class MLP(nn.Module):
    """For rows of a table: 30-16-8-1."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.relu1, self.fc2, self.relu2 = nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU()
        self.fc3 = nn.Linear(8, 1)

    def forward(self, input: Tensor) -> Tensor:
        return self.fc3(self.relu2(self.fc2(self.relu1(self.fc1(input)))))


class SmallCNN(nn.Module):
    """Three convolutions with max pooling and a dense layer, for 32 x 32 pictures."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.relu1, self.pool1 = nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        self.conv2, self.relu2, self.pool2 = nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        self.conv3, self.relu3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.ReLU()
        self.pool3, self.fc = nn.AvgPool2d(8), nn.Linear(4 * width, 10)

    def forward(self, input: Tensor) -> Tensor:
        hidden = self.pool2(self.relu2(self.conv2(self.pool1(self.relu1(self.conv1(input))))))
        return self.fc(torch.flatten(self.pool3(self.relu3(self.conv3(hidden))), 1))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a skip connection (He et al. 2016)."""

    widening = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.relu1, self.relu2 = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
        self.downsample = _downsample(inputs, width, stride)

    def damp(self) -> None:
        """Scale both branches down, as training does; otherwise activations double in every block."""
        _damp(self.bn2, self.downsample)

    def forward(self, input: Tensor) -> Tensor:
        skip = input if self.downsample is None else self.downsample(input)
        hidden = self.relu1(self.bn1(self.conv1(input)))
        return self.relu2(self.bn2(self.conv2(hidden)) + skip)


class Bottleneck(nn.Module):
    """A 3 x 3 convolution between two of 1 x 1, beside a skip connection; the stride is that of the 3 x 3."""

    widening = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.relu1, self.relu2, self.relu3 = (nn.ReLU(inplace=True) for _ in range(3))
        self.downsample = _downsample(inputs, 4 * width, stride)

    def damp(self) -> None:
        """As in `BasicBlock`."""
        _damp(self.bn3, self.downsample)

    def forward(self, input: Tensor) -> Tensor:
        skip = input if self.downsample is None else self.downsample(input)
        hidden = self.relu1(self.bn1(self.conv1(input)))
        hidden = self.relu2(self.bn2(self.conv2(hidden)))
        return self.relu3(self.bn3(self.conv3(hidden)) + skip)


def _downsample(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _damp(last: nn.BatchNorm2d, downsample: nn.Sequential | None) -> None:
    nn.init.uniform_(last.weight, 0.3, 0.6)
    if downsample is not None:
        nn.init.uniform_(downsample[1].weight, 0.3, 0.9)


class ResNet(nn.Module):
    """A ResNet for ImageNet."""

    def __init__(self, block: type[BasicBlock | Bottleneck], counts: Sequence[int]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, count in enumerate(counts):
            width, blocks = 64 * 2**stage, []
            for number in range(count):
                blocks.append(block(channels, width, 2 if stage and not number else 1))
                channels = width * block.widening
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(channels, 1000)

    def forward(self, input: Tensor) -> Tensor:
        hidden = self.maxpool(self.relu(self.bn1(self.conv1(input))))
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        return self.fc(torch.flatten(self.avgpool(hidden), 1))


class VGG16(nn.Module):
    """VGG-16 without batch norm (Simonyan & Zisserman 2015)."""

    def __init__(self) -> None:
        super().__init__()
        layers, channels = [], 3
        for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        hidden = [(nn.Linear(size, 4096), nn.ReLU(inplace=True), nn.Dropout()) for size in (512 * 7 * 7, 4096)]
        self.classifier = nn.Sequential(*hidden[0], *hidden[1], nn.Linear(4096, 1000))

    def forward(self, input: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(input), 1))


class EncoderBlock(nn.Module):
    """Attention and a feed-forward part, each after a norm and beside a skip connection."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        dense = (nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.0), nn.Linear(hidden, width))
        self.mlp = nn.Sequential(*dense)

    def forward(self, input: Tensor) -> Tensor:
        normed = self.ln_1(input)
        hidden = input + self.self_attention(normed, normed, normed, need_weights=False)[0]
        return hidden + self.mlp(self.ln_2(hidden))


class Encoder(nn.Module):
    """The blocks of a vision transformer, between the positions and the last norm."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, tokens, width) / 2)
        blocks = {f"encoder_layer_{number}": EncoderBlock(width, 12, 4 * width) for number in range(12)}
        self.layers = nn.Sequential()
        for name, block in blocks.items():
            self.layers.add_module(name, block)
        self.ln = nn.LayerNorm(width, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        return self.ln(self.layers(input + self.pos_embedding))


class VisionTransformer(nn.Module):
    """ViT-B/16 for ImageNet (Dosovitskiy et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_proj = nn.Conv2d(3, 768, 16, 16)
        self.class_token = nn.Parameter(torch.randn(1, 1, 768))
        self.encoder = Encoder(197, 768)
        self.heads = nn.Sequential()
        self.heads.add_module("head", nn.Linear(768, 1000))

    def forward(self, input: Tensor) -> Tensor:
        patches = self.conv_proj(input).flatten(2).transpose(1, 2)
        token = self.class_token.expand(input.shape[0], -1, -1)
        return self.heads(self.encoder(torch.cat([token, patches], 1))[:, 0])


class LastStep(nn.Module):
    """Two layers of LSTM; a dense layer reads the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(64, 256, num_layers=2, batch_first=True), nn.Linear(256, 10)

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.lstm(input)[0][:, -1])


class Logits(nn.Module):
    """A model of transformers with its logits as the only output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


class Classifier(Logits):
    """Of padded pairs of sentences."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        outputs = self.model(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return outputs.logits


class NextToken(Logits):
    """Of unpadded prompts."""

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids).logits


def bert(*, layers: int) -> Classifier:
    """BERT-base, attention op by op."""
    from transformers import BertConfig, BertForSequenceClassification  # most workers have no transformers

    config = BertConfig(num_hidden_layers=layers, attn_implementation="eager")
    return Classifier(BertForSequenceClassification(config))


def llama() -> NextToken:
    """The shape of LLaMA-3.2-1B."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        intermediate_size=8192,
        max_position_embeddings=4096,
        rope_theta=500000.0,
        tie_word_embeddings=True,
        attn_implementation="eager",
        use_cache=False,
    )
    return NextToken(LlamaForCausalLM(config))


FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "digits": Digits,
    "mlp": MLP,
    "small_cnn": SmallCNN,
    "resnet18": lambda: ResNet(BasicBlock, (2, 2, 2, 2)),
    "resnet50": lambda: ResNet(Bottleneck, (3, 4, 6, 3)),
    "vgg16": VGG16,
    "vit_b16": VisionTransformer,
    "lstm": LastStep,
    "bert": bert,
    "llama": llama,
}
