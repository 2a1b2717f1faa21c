"""Whole datasets in one call: read, explained and stored block by block, so that it can be killed and go on."""

from .cluster import ExplainBatches
from .explaining import explain_dataset
from .run import Run

__all__ = ["ExplainBatches", "Run", "explain_dataset"]
