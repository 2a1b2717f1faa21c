"""Operations of keras.ops that are known and refused: why, and the way out."""

from __future__ import annotations

from backtrace_jax.errors import UnsupportedError

TRACED = "jaxpr"
"""What an import's origin calls its exporter where the model was traced as a whole."""


class NoRoadError(UnsupportedError):
    """What can be read neither layer by layer nor from what JAX traces of the model."""


_REASONS = {
    "runs Python of the user's own inside an operation; write it as layers and operations of the model": (
        "AssociativeScan", "Cond", "ForiLoop", "JVP", "Map", "Scan", "Switch", "VectorizedMap", "WhileLoop",
    ),
    "decomposes a matrix, for which there is no rule of relevance; do it before or behind the model": (
        "Cholesky", "CholeskyInverse", "Det", "Eig", "Eigh", "Inv", "Logdet", "Lstsq", "LuFactor", "MatrixRank",
        "Pinv", "Qr", "SVD", "Slogdet", "Solve", "SolveTriangular",
    ),
    "computes with complex numbers, which relevance is not defined for; keep real and imaginary parts as values": (
        "Polar", "ViewAsComplex", "ViewAsReal",
    ),
    "has as many results as the values say; do it before or behind the model": (
        "Bincount", "Histogram", "Nonzero", "Unique",
    ),
    "makes a range between bounds that the model computes; give the bounds as numbers": (
        "Arange", "Geomspace", "Linspace", "Logspace",
    ),
    "has no ONNX form (a special function); write it with other operations": ("Erfinv", "I0", "Nextafter"),
    "works on the bits of integers, which bear no relevance; do it before the model": (
        "BitwiseLeftShift", "BitwiseRightShift", "Gcd", "Lcm", "LeftShift", "RightShift", "View",
    ),
    "is a loss over alignments, computed in training; explain the scores before it": ("CTCDecode", "CTCLoss"),
    "projects onto the simplex, for which there is no rule; use softmax": ("Sparsemax",),
    "compares examples or whole signals with each other; do it behind the model": ("Corrcoef", "Correlate", "SSIM"),
    "adds up windows that overlap and divides by their number; transform back behind the model": ("ISTFT",),
    "sorts only in part, in an order that no two backends share; use argsort": ("Argpartition",),
    "turns or bends images, which has no ONNX form here; do it before the model": (
        "AffineTransform", "ElasticTransform", "HSVToRGB", "MapCoordinates", "PerspectiveTransform", "RGBToHSV",
        "ScaleAndTranslate",
    ),
    "counts what no backend gives a median of; fill in what is missing and use median": (
        "Nanmedian", "Nanpercentile", "Nanquantile",
    ),
    "gives a shape rather than a value; read it off the model": ("Ndim", "Size"),
    "is a graph within the graph; call the layers themselves, or a keras.Model": ("Function",),
}  # fmt: skip

EXCLUDED: dict[str, str] = {name: reason for reason, names in _REASONS.items() for name in names}
"""Class of an operation -> why it is refused, and what to do instead."""
