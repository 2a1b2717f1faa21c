"""`explain`: an Explainer for one call, kept for the next."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Unpack

from backtrace_jax.errors.arguments import fields_of, with_fields
from backtrace_jax.explanation.explanation import Explanation
from backtrace_jax.importers import read
from backtrace_jax.question.feeds import Inputs, refuse_datasets
from backtrace_jax.question.settings import Settings
from backtrace_jax.runtime.processes import enter

from .asking import Asked
from .explainer import ENTRIES, OPTIONS, Explainer, made
from .given import Given, GivenEach
from .questions import Questions
from .stages import Known

EXPLAINERS_KEPT = 4
"""Explainers that `explain` keeps, so that a second call compiles nothing."""


@with_fields(Asked, Settings, elsewhere=OPTIONS)
def explain(model: Any, inputs: Inputs, **chosen: Unpack[Given]) -> Explanation:
    """Why did the model answer as it did? Relevance of every input for one answer per example.

    A second call with the same model, settings and shapes compiles nothing.

    Args:
        model: Path of an ONNX file, an onnx.ModelProto, a PyTorch module, a Keras model or its file, or a JAX function
            or module of Flax, Equinox or Haiku (docs/jax.md says how each is passed).
        inputs: An array, a tuple of arrays in the model's order, or a dict by input name; batch first. With a PyTorch
            module also tensors and encodings, with a Keras model also text where it takes text, with a JAX model trees
            of arrays as it takes them (`Explanation.in_tree`).
        mode: Which rules share relevance out: a name (`backtrace-jax modes` lists them), `mode(name, option=...)`, or a
            `composite` of your own.
        task: What kind of answer the output is: "auto", "binary-classification", "multi-class classification",
            "bbox-regression", "binary-segmentation", "multi-class-segmentation", "next-token",
            "token-classification", "span-qa", ...; one that the output does not fit is refused. "auto" reads it from
            the graph: one number is a class if it is a probability, else a quantity; a row of numbers is one of
            classes, or a regression where an autoencoder restored its input; the axis of the last softmax holds the
            classes of places; one channel of probabilities over a picture is a mask; as many classes as the table of
            tokens has rows are next tokens. What it chose is in the fingerprint ("task", "class_axis"); what stays open
            is asked back.
        target: Class explained: None (the predicted one), an integer (negative: from the end), one integer per
            example, or a tuple indexing the output's axes. For a regression the output explained (None: all of them in
            equal parts). On a single unit 1 explains it and 0 explains class 0, whose start is reversed (in
            contrastive mode the two channels change places); None starts at the unit as 1 does, whatever is predicted.
        against: Class that the target is contrasted with ("why 3 rather than 5"), or one per example; a tuple where the
            target takes one.
        position: For sequences, the position explained (negative: from the end), or one per example. By default the
            last one for "next-token", all in equal parts for "token-classification".
        output: Name or index of the output explained, by default the first that holds floats; or the name of a value or
            module inside the model, whose most active unit (or `target`) is explained.
        scaler: Total relevance handed out; None: the output's own value, and in gradient modes the plain derivative.
        thresholding: Value of the output above which a unit belongs to a segmentation mask.
        class_axis: Axis of the output (0 is the batch) that holds the classes of a segmentation or sequence, where the
            graph does not tell it (no softmax, no channels, as behind a Reshape).
        start: Start relevance itself instead of a task: an array shaped like the output, or a function
            that makes one from the explained output's array. In contrastive mode its negative part speaks against.
        baseline: Reference input for "deeplift" and "integrated-gradients": None or "zero", an array shaped like one
            example (tokens: the ids of a reference text), an array of examples whose mean it is, or a dict of these.
        conditions: Restricts the flow: by name of a value or module, a mask from 0 to 1 that broadcasts against the
            value (without batch axis), or a list of the channels to keep, whichever axis the layer has them on (units
            of a dense layer are last). What it cuts off is booked as dead.
        layers: Intermediate relevance to keep: "all", or names and globs of values and modules. A module that is called
            several times gives each call, as `name`, `name:1`, ...; `output` and `conditions` name one, the first as
            `name:0`.
        wrt: Names of the inputs that bear relevance; None: all floats, and integers that look up rows of a table, and
            where there are neither, integers and booleans as the quantities they stand for (beside others those
            have to be named here).
        chunk: Examples explained at a time, 1 or a multiple of 8; by default chosen from the model and the device. A
            call of light models takes many chunks, one after the other.
        dtype: What is computed in: "float32", or "float64" for audits. Models in half precision are no exception: only
            where they cast to it themselves are numbers rounded to it. Outputs and relevance come in this type.
        precision: Of contractions: "highest" (full float32), "high" or "default" (the backend's fastest).
        batch_axis: Axis of the batch in the inputs; None for a model without batch, whose inputs are one example; or
            one by input name, None where all examples share the input. The Explanation has the batch first in any
            case. A model that does to several examples what it does not do to each alone is refused.
        prepare: Whether what the rules make of the weights, such as their magnitudes, is made once and kept: faster,
            above all for single examples, at the price of memory (`Explainer.derived_bytes`).
        prove: How often a PyTorch, Keras or JAX model is run to compare its outputs with those explained: "every"
            call, so that a model that was changed, or goes another way on these inputs, is imported anew or refused; or
            the "first" only, which saves a forward pass and trusts that the model stays as it is. Gradient modes
            compare the gradient as well where a PyTorch module may tell autograd another one (detach, no_grad, hooks, a
            backward of its own), or a JAX function does (custom_jvp, custom_vjp, stop_gradient).
        ledger: Which books are kept: "nodes", of what every node received, handed on and kept; "total", of the whole
            graph alone, for less time and memory; None, none. Relevance is the same. Where relevance was lost "total"
            may not name the node, and None does not notice what only books show (see docs/ledger.md). Gradient modes
            keep no books, whatever is asked for.
        memory: "high" keeps every value of the forward pass until relevance comes by. "low" keeps those between the
            blocks of the network, computes the others anew, block by block, and makes nothing of the weights in advance
            (`prepare` has no effect): for deep models and long sequences (see docs/memory.md).
        devices: How many devices of this machine share the examples of a call, or "all". The bytes are the same; every
            device has the weights, and compiles for itself.
        progress: Called with (examples done, examples in all).

    Returns:
        Relevance by input name, the outputs, and a ledger of where all start relevance went.

    Raises:
        BacktraceError: The one root of all errors, each naming what is wrong and what to do.
    """
    enter()
    refuse_datasets(inputs)
    return _explained(model, inputs, Asked(**fields_of(Asked, chosen)), fields_of(Settings, chosen))[0]


@with_fields(Questions, Settings, elsewhere=OPTIONS | ENTRIES)
def explain_each(model: Any, inputs: Inputs, targets: Any = None, **chosen: Unpack[GivenEach]) -> list[Explanation]:
    """Explain several answers about the same inputs, from one forward pass and one gathering of evidence.

    A second call with the same model, settings and shapes compiles nothing, however many questions it asks.

    Args:
        model: As `explain` takes it.
        inputs: Likewise.
        targets: As `Explainer.each` takes them: a list of what `explain` takes as target, an array [batch, questions],
            or "all".
        chosen: The settings of `explain`, and the questions of `Explainer.each`: positions, conditions, against,
            starts; position, start, baseline, progress.

    Returns:
        An Explanation for each question, as `Explainer.each` gives them.

    Raises:
        BacktraceError: As `Explainer.each`.
    """
    enter()
    refuse_datasets(inputs)
    asked = Questions(**{"targets": targets, **fields_of(Questions, chosen)})
    return _explained(model, inputs, asked, fields_of(Settings, chosen))


def _explained(model: Any, inputs: Inputs, asked: Asked | Questions, chosen: Mapping[str, Any]) -> list[Explanation]:
    """What is asked about inputs, by the explainer that is kept for this model and these settings."""
    settings = Settings.of(**chosen)
    imported = read(model, inputs, settings.axes, proven=False)
    return kept_explainer(Known.of(imported), settings).explained(imported, inputs, asked)[1]


@lru_cache(EXPLAINERS_KEPT)
def kept_explainer(known: Known, settings: Settings) -> Explainer:
    """The explainer of a model, made once."""
    return made(known.model, settings)
