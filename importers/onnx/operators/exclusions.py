"""Operators that are known and refused: why, and the way out.

The lists are those of onnxruntime's own schemas (1.31); a test holds them against the installed package.
"""

from __future__ import annotations

_MICROSOFT = {
    "searches for a whole text in one node; explain the decoder inside it": (
        "BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch",
    ),
    "steers a search by tokens and gives no answer of its own; explain the decoder without it": (
        "BifurcationDetector", "NGramRepeatBlock",
    ),
    "holds a model compiled for one device, without its operators; use the model before it was compiled": (
        "EPContext", "Snpe",
    ),
    "reads a paged or sparse cache of a serving engine; export the model with plain attention and no cache": (
        "DynamicSparseAttention", "PackedSparseAttentionIndexer", "PagedAttention", "SparseAttention",
        "SparseAttentionIndexer", "SparsePagedAttention", "VarlenCausalConvWithState",
    ),
    "makes integers of integers by hashing, which no relevance passes; hash before the model": (
        "MurmurHash3", "NGramHashMapping", "VarlenNGramHashMapping",
    ),
    "cuts text, which no relevance passes; do it before the model": ("Tokenizer",),
    "chooses a path, which carries no relevance and has no gradient; do it behind the model": ("DynamicTimeWarping",),
    "solves linear equations, for which there is no rule; invert a constant beforehand": ("Inverse",),
    "stores weights in a form that only its own kernel reads; quantise with MatMulNBits instead": (
        "DequantizeBFP", "MatMulFpQ4", "QuantizeBFP",
    ),
    "computes in an order of a GPU's own; export the model before it was optimised for that": (
        "GemmFloat8", "MatMulBlockQuantizedFp4Weight", "MatMulBlockQuantizedFp8Weight", "QOrderedLongformerAttention",
    ),
    "is fused for one GPU runtime; use the model before that fusion": (
        "DecoderAttention", "EngramGate", "GatedDeltaNet", "GemmaRotaryEmbedding", "HyperConnectionPostMix",
        "HyperConnectionPreMix", "MRotaryEmbedding", "MatMulNBitsMlp", "MatMulNBitsQkv",
    ),
    "multiplies by a sparse matrix; store it as a dense one": ("SparseToDenseMatMul",),
    "belongs to one old model family; export with standard operators": (
        "AttnLSTM", "CropAndResize", "LongformerAttention", "MaxpoolWithMask", "WordConvEmbedding",
    ),
    "is a counter of integers for which nothing was found that writes it; use standard operators": (
        "MulInteger", "ReduceSumInteger",
    ),
    "watches over training; export the model for inference": ("IsAllFinite",),
}  # fmt: skip

_NCHWC = (
    "is laid out in blocks for one processor (onnxruntime's optimiser at level ALL); save the optimised model at level "
    "EXTENDED, or use the model before that"
)
_NHWC = (
    "is laid out inside one execution provider (onnxruntime's layout optimiser); use the model before it was optimised"
)

_WHOLE_DOMAINS = {"com.microsoft.nchwc": _NCHWC, "com.ms.internal.nhwc": _NHWC}

EXCLUDED: dict[tuple[str, str], str] = {
    ("com.microsoft", name): reason for reason, names in _MICROSOFT.items() for name in names
}
"""Domain and name of an operator -> why it is refused, and what to do instead."""


def exclusion(domain: str, name: str) -> str:
    """Why an operator is refused, and the way out; empty where nothing is known."""
    return EXCLUDED.get((domain, name)) or _WHOLE_DOMAINS.get(domain, "")
