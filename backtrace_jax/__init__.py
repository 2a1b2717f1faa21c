"""Why did the network answer that? Relevance of every input, walked back from the prediction, for any ONNX model.

`explain(model, inputs)` returns an `Explanation`, and `explain_each` one for each of several questions; `Explainer`
compiles once for many calls; `explain_dataset` explains a whole dataset into a folder, which a `Run` reads; `check`
says beforehand what a model consists of and whether everything in it has a rule; `show` prints the graph that is
explained; `verify` proves that bytes are the same in any batch, position and process.
"""

from .datasets import ExplainBatches, Run, explain_dataset
from .errors import (
    BacktraceError,
    ImportMismatchError,
    InputError,
    MissingDependencyError,
    MixedExamplesError,
    ModelError,
    NumericsError,
    RelevanceWarning,
    SettingError,
    UnsupportedError,
)
from .explainer.explainer import Explainer
from .explainer.explaining import explain, explain_each
from .explainer.exporting import export
from .explainer.support import SupportReport, check, show
from .explainer.verification import Verification
from .explainer.verifying import verify
from .explanation.explanation import Explanation
from .explanation.ledger import Channel, Ledger
from .question.words import TASKS
from .rules import MODES, Mode, Rule, Selector, composite, mode

__all__ = [
    "MODES",
    "TASKS",
    "BacktraceError",
    "Channel",
    "ExplainBatches",
    "Explainer",
    "Explanation",
    "ImportMismatchError",
    "InputError",
    "Ledger",
    "MissingDependencyError",
    "MixedExamplesError",
    "Mode",
    "ModelError",
    "NumericsError",
    "RelevanceWarning",
    "Rule",
    "Run",
    "Selector",
    "SettingError",
    "SupportReport",
    "UnsupportedError",
    "Verification",
    "check",
    "composite",
    "explain",
    "explain_dataset",
    "explain_each",
    "export",
    "mode",
    "show",
    "verify",
]
