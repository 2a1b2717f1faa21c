"""The way through everything below: `explain`, `Explainer`, `check`, `show`, `export`."""

from .explainer import Explainer
from .explaining import explain
from .exporting import export
from .support import SupportReport, check, show

__all__ = ["Explainer", "SupportReport", "check", "explain", "export", "show"]
