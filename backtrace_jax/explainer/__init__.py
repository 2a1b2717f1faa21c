"""The way through everything below: `explain`, `explain_each`, `Explainer`, `check`, `show`, `export`."""

from .explainer import Explainer
from .explaining import explain, explain_each
from .exporting import export
from .support import SupportReport, check, show

__all__ = ["Explainer", "SupportReport", "check", "explain", "explain_each", "export", "show"]
