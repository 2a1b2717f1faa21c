"""What is left out of the comparison, each with its reason."""

BY_CLASS = (
    "the mode chooses rules by the layer's class, as zennit's EpsilonPlus does: z-plus for convolutions, epsilon for "
    "dense layers; a 1x1 convolution is a convolution there, and the product that computes the same is a dense layer"
)
EXCLUDED: dict[tuple[str, str], str] = {
    ("dense_as_convolution", "lrp-epsilon-plus"): BY_CLASS,
    ("convolution_as_dense", "lrp-epsilon-plus"): BY_CLASS,
}
"""(rewrite, mode): why relevance may differ."""
