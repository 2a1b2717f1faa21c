"""Torch modules as their users have them: true block structure, tiny sizes, transformers' own classes."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo import export, vision
from tests.zoo.recipe import images, randomise, sentences
from tests.zoo.vision import VisionTransformer, _convolution

VOCABULARY, WIDTH, LENGTH, ROWS = 24, 16, 6, 2
PLAIN, TRANSFORMER = "lrp-epsilon-plus", "attnlrp"


@dataclass(frozen=True)
class Example:
    """A module, what its user passes, and how it is explained."""

    module: nn.Module
    inputs: Any
    task: str = "auto"
    third: str = PLAIN
    parts: tuple[str, ...] = ()


def build(name: str) -> Example:
    """A model, always with the same weights, none of them an identity; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(zlib.crc32(name.encode()))
        example = MODELS[name]()
        example.module.eval()
    return example


def _from_zoo(name: str, third: str = PLAIN, parts: tuple[str, ...] = ()) -> Example:
    recipe = export.RECIPES[name]()
    randomise(recipe.module)
    inputs = tuple(torch.tensor(value[:ROWS]) for value in recipe.inputs.values())
    return Example(recipe.module, inputs if len(inputs) > 1 else inputs[0], third=third, parts=parts)


def _drawn(module: nn.Module, inputs: Any, **settings: Any) -> Example:
    """Weights of the size that keeps activations in bounds, norms and biases that do something."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif "norm" in name.lower() and name.endswith("weight"):
            nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            nn.init.normal_(parameter, std=0.1)
    for name, buffer in module.named_buffers():
        if "running" in name:
            nn.init.uniform_(buffer, 0.5, 1.5)
    return Example(module, inputs, **settings)


def _image(size: int = 16) -> Tensor:
    return torch.tensor(images(size)[:ROWS])


class Bottleneck(nn.Module):
    """ResNet-50's block: 1 x 1, 3 x 3, 1 x 1 beside a skip connection."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        same = stride == 1 and inputs == 4 * width
        self.downsample = None if same else _convolution(inputs, 4 * width, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        hidden = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn3(self.conv3(self.relu(self.bn2(self.conv2(hidden))))) + skip)


def _resnet18() -> Example:
    recipe = vision.resnet(width=4, blocks=(2, 2, 2, 2), image=32, classes=5)
    randomise(recipe.module)
    return Example(recipe.module, _image(32), parts=("layer2.0", "layer4.1.conv2"))


def _resnet50() -> Example:
    recipe = vision.resnet(width=4, blocks=(1, 1), image=16, classes=5)
    recipe.module.layer1 = nn.Sequential(Bottleneck(4, 2, 1), Bottleneck(8, 2, 1))
    recipe.module.layer2 = nn.Sequential(Bottleneck(8, 4, 2), Bottleneck(16, 4, 1))
    recipe.module.fc = nn.Linear(16, 5)
    randomise(recipe.module)
    return Example(recipe.module, _image(), parts=("layer1.0.conv3", "layer2.*"))


def _torch_vit() -> Example:
    """Torch's own encoder layers, attention and all, after a patch embedding."""
    module = VisionTransformer([nn.Identity()], 16, 16, 8)
    layer = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True, norm_first=True)
    module.blocks = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    return _drawn(module, _image(), third=TRANSFORMER, parts=("blocks.layers.0.self_attn",))


def _hf_vit() -> Example:
    config = transformers.ViTConfig(**_sizes(), image_size=16, patch_size=8, num_labels=3)
    return _drawn(transformers.ViTForImageClassification(config), {"pixel_values": _image()}, third=TRANSFORMER)


class UpsamplingNet(nn.Module):
    """A U-Net of one level, upsampled in either way."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.down, self.bottom = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, 2) if mode == "transposed" else nn.Upsample(scale_factor=2, mode=mode)
        self.merge = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        fine = functional.relu(self.down(x))
        coarse = functional.relu(self.bottom(functional.max_pool2d(fine, 2)))
        return self.merge(torch.cat([fine, self.up(coarse)], 1))


def _unet(mode: str) -> Example:
    return _drawn(UpsamplingNet(mode), _image(), task="multi-class-segmentation", parts=("down", "merge"))


class Bag(nn.Module):
    """Fast text classification: a bag of embeddings and a dense layer."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(VOCABULARY, WIDTH, mode=mode, padding_idx=0)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.bag(tokens))


class Recurrent(nn.Module):
    """Two layers of a bidirectional recurrence, read at every step."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.body = kind(4, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[0].mean(1))


def _recurrent(kind: type[nn.RNNBase]) -> Example:
    return _drawn(Recurrent(kind), torch.randn(ROWS, LENGTH, 4))


def _sizes(layers: int = 1) -> dict[str, Any]:
    """What most families call the sizes of a transformer; a second layer would only cost time."""
    return {"hidden_size": WIDTH, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 2 * WIDTH}


def _text(*names: str) -> transformers.BatchEncoding:
    """Padded sentences as a tokeniser returns them."""
    found = sentences(LENGTH, VOCABULARY)
    return transformers.BatchEncoding({name: torch.tensor(found[name][:ROWS]) for name in names})


def _prompts(length: int = LENGTH) -> Tensor:
    return torch.randint(3, VOCABULARY, (ROWS, length))


def _encoder(family: str, **settings: Any) -> Example:
    """A classifier of padded sentences."""
    if family != "XLNet":  # the one without a longest sentence
        settings["max_position_embeddings"] = 16
    config = getattr(transformers, f"{family}Config")(vocab_size=VOCABULARY, num_labels=3, pad_token_id=0, **settings)
    module = getattr(transformers, f"{family}ForSequenceClassification")(config)
    return _drawn(module, _text("input_ids", "attention_mask"), third=TRANSFORMER)


_DISTIL = {"dim": WIDTH, "n_layers": 1, "n_heads": 2, "hidden_dim": 2 * WIDTH}
_XLNET = {"d_model": WIDTH, "n_layer": 1, "n_head": 2, "d_inner": 2 * WIDTH}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 4}


def _decoder(family: str, parts: tuple[str, ...] = (), **settings: Any) -> Example:
    """A causal language model."""
    small = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, f"{family}Config")(**{**small, **settings})
    module = getattr(transformers, "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM")(config)
    third = PLAIN if family == "Mamba" else TRANSFORMER
    return _drawn(module, {"input_ids": _prompts()}, task="next-token", third=third, parts=parts)


_GROUPED = {**_sizes(), "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 16}
_GPT2 = {"n_embd": WIDTH, "n_layer": 1, "n_head": 2, "n_positions": 16}
_LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0}
_LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8}
_MOE = {**_GROUPED, "num_experts": 3, "num_experts_per_tok": 2}
_EXPERTS = ("model.layers.*.mlp.experts.[0-2]", "model.layers.*.mlp.gate")


def _jetmoe() -> Example:
    settings = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_key_value_heads": 2, "kv_channels": 8}
    settings |= {"intermediate_size": WIDTH, "num_local_experts": 3, "num_experts_per_tok": 2}
    parts = ("model.layers.*.mlp.experts.[0-2]", "model.layers.*.mlp.router")
    return _decoder("JetMoe", (*parts, "model.layers.*.self_attention.experts.answers.[0-2]"), **settings)


def _gpt_oss() -> Example:
    parts = ("model.layers.*.mlp.experts.[0-2]", "model.layers.*.mlp.router")
    settings = {
        **_GROUPED,
        "num_hidden_layers": 1,
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
        "sliding_window": 4,
    }
    rope = {"rope_type": "default", "rope_theta": 150000.0}
    return _decoder("GptOss", parts, **settings, rope_parameters=rope)


_SEQUENCES = {"d_model": WIDTH, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
_SEQUENCES |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
_T5 = {"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}


def _translator(config: Any, model: Callable[[Any], nn.Module]) -> Example:
    """A sequence-to-sequence model with what it has written so far."""
    inputs = {**_text("input_ids", "attention_mask"), "decoder_input_ids": _prompts(4)}
    return _drawn(model(config), inputs, task="next-token", third=TRANSFORMER)


def _t5() -> Example:
    config = transformers.T5Config(vocab_size=VOCABULARY, **_T5)
    return _translator(config, transformers.T5ForConditionalGeneration)


def _bart(family: str, model: str) -> Example:
    tokens = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    tokens |= {"decoder_start_token_id": 1, "forced_eos_token_id": 2, "max_position_embeddings": 16}
    config = getattr(transformers, f"{family}Config")(**tokens, **_SEQUENCES)
    return _translator(config, getattr(transformers, model))


def _whisper() -> Example:
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = transformers.WhisperConfig(
        **_SEQUENCES, **tokens, vocab_size=VOCABULARY, num_mel_bins=4, max_source_positions=6, num_labels=3
    )
    module = transformers.WhisperForAudioClassification(config)
    return _drawn(module, {"input_features": torch.randn(ROWS, 4, 12)}, third=TRANSFORMER)


VISION: dict[str, Callable[[], Example]] = {
    "mlp": functools.partial(_from_zoo, "mlp", parts=("0", "2")),
    "lenet": functools.partial(_from_zoo, "lenet"),
    "vgg": functools.partial(_from_zoo, "vgg_small"),
    "resnet18": _resnet18,
    "resnet50": _resnet50,
    "densenet": functools.partial(_from_zoo, "densenet"),
    "efficientnet": functools.partial(_from_zoo, "efficientnet", parts=("blocks.1",)),
    "mobilenet_v2": functools.partial(_from_zoo, "mobilenet_v2"),
    "mobilenet_v3": functools.partial(_from_zoo, "mobilenet_v3"),
    "vit_mha": _torch_vit,
    "vit_timm": functools.partial(_from_zoo, "vit_sdpa", TRANSFORMER),
    "vit_hf": _hf_vit,
    "unet_transposed": functools.partial(_unet, "transposed"),
    "unet_nearest": functools.partial(_unet, "nearest"),
    "unet_bilinear": functools.partial(_unet, "bilinear"),
    "bbox": functools.partial(_from_zoo, "bbox_cnn"),
}

SEQUENCE: dict[str, Callable[[], Example]] = {
    "text_cnn": functools.partial(_from_zoo, "text_cnn"),
    **{
        f"bag_{mode}": lambda mode=mode: _drawn(Bag(mode), {"tokens": _text("input_ids")["input_ids"]})
        for mode in ("sum", "mean", "max")
    },
    "lstm": functools.partial(_recurrent, nn.LSTM),
    "gru": functools.partial(_recurrent, nn.GRU),
    "rnn": functools.partial(_recurrent, nn.RNN),
}

LANGUAGE: dict[str, Callable[[], Example]] = {
    "bert": functools.partial(_encoder, "Bert", **_sizes(layers=2)),
    "albert": functools.partial(_encoder, "Albert", **_sizes(layers=2), embedding_size=8),
    "roberta": functools.partial(_encoder, "Roberta", **_sizes()),
    "distilbert": functools.partial(_encoder, "DistilBert", **_DISTIL),
    "electra": functools.partial(_encoder, "Electra", **_sizes(), embedding_size=8),
    "xlnet": functools.partial(_encoder, "XLNet", **_XLNET),
    "deberta_v2": functools.partial(_encoder, "DebertaV2", **_sizes(), **_DEBERTA),
    "gpt2": functools.partial(_decoder, "GPT2", **_GPT2),
    "llama": functools.partial(_decoder, "Llama", **_GROUPED, rope_parameters=_LLAMA3),
    "qwen3": functools.partial(_decoder, "Qwen3", **_GROUPED),
    "gemma2": functools.partial(_decoder, "Gemma2", **_GROUPED, query_pre_attn_scalar=8, sliding_window=4),
    "t5": _t5,
    "bart": functools.partial(_bart, "Bart", "BartForConditionalGeneration"),
    "marian": functools.partial(_bart, "Marian", "MarianMTModel"),
    "mamba": functools.partial(_decoder, "Mamba", hidden_size=8, state_size=2, num_hidden_layers=1),
    "whisper": _whisper,
}

EXPERTS: dict[str, Callable[[], Example]] = {
    "jetmoe": _jetmoe,
    "olmoe": functools.partial(_decoder, "Olmoe", _EXPERTS, **_MOE),
    "gpt_oss": _gpt_oss,
    "qwen3_moe": functools.partial(_decoder, "Qwen3Moe", _EXPERTS, **_MOE, moe_intermediate_size=8),
}

MODELS = {**VISION, **SEQUENCE, **LANGUAGE, **EXPERTS}
