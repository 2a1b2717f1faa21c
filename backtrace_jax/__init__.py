"""Why did the network answer that? Relevance of every input, walked back from the prediction, for any ONNX model.

`explain(model, inputs)` returns an `Explanation`; `Explainer` compiles once for many calls; `check` says beforehand
what a model consists of and whether everything in it has a rule; `show` prints the graph that is explained.
"""

from .errors import (
    BacktraceError,
    InputError,
    MissingDependencyError,
    ModelError,
    NumericsError,
    SettingError,
    UnsupportedError,
)
from .explainer import Explainer, explain
from .explanation import Explanation, Ledger
from .rules import MODES
from .support import SupportReport, check, show
from .tasks import TASKS

__all__ = [
    "MODES",
    "TASKS",
    "BacktraceError",
    "Explainer",
    "Explanation",
    "InputError",
    "Ledger",
    "MissingDependencyError",
    "ModelError",
    "NumericsError",
    "SettingError",
    "SupportReport",
    "UnsupportedError",
    "check",
    "explain",
    "show",
]
