"""Imports torchvision, also beside a torch that its compiled operators were not built for.

The peers that need it want the classes of its models only. Without its operators it fails where it describes two of
them, so these are declared first.
"""

from __future__ import annotations

import torch

OPERATORS = "nms", "qnms"


def import_torchvision() -> torch.library.Library | None:
    """Import it; the declarations, where they were needed, last as long as the library returned."""
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401

        return library
    return None


DECLARED = import_torchvision()
