"""What `explain` and `Explainer` take by keyword, as editors and type checkers see it.

`Settings` and `Asked` say what there is and what it is when nothing is given; here is what may be given instead. A test
holds them together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, TypedDict

from numpy.typing import ArrayLike, NDArray

from backtrace_jax.batch.layout import BatchAxis
from backtrace_jax.rules import Mode
from backtrace_jax.sources import GivenReading


class GivenSettings(TypedDict, total=False):
    """The settings of an `Explainer`; `explain` says what they mean."""

    mode: str | Mode
    task: str
    output: str | int | None
    scaler: float | None
    thresholding: float
    class_axis: int | None
    layers: str | Collection[str] | None
    wrt: str | Collection[str] | None
    chunk: int | None
    dtype: str
    precision: str
    batch_axis: BatchAxis
    prepare: bool
    prove: str
    ledger: str | None
    memory: str
    devices: int | Literal["all"]


class GivenStart(TypedDict, total=False):
    """Where relevance starts, and what it is measured from; `explain` says what it means."""

    position: ArrayLike | None
    start: ArrayLike | Callable[[NDArray[Any]], ArrayLike] | None
    baseline: ArrayLike | Mapping[str, ArrayLike | None] | None


class GivenShared(GivenStart, total=False):
    """What all questions of one call share besides its inputs."""

    progress: Callable[[int, int], object] | None


class GivenQuestion(GivenShared, total=False):
    """What one call asks besides its inputs."""

    target: ArrayLike | None
    against: ArrayLike | None
    conditions: Mapping[str, ArrayLike] | None


class GivenQuestions(GivenShared, total=False):
    """What several questions about the same inputs are besides their targets; `Explainer.each` says what it means."""

    positions: Sequence[ArrayLike | None] | NDArray[Any] | Literal["all"] | None
    against: ArrayLike | Sequence[ArrayLike | None] | None
    conditions: Mapping[str, ArrayLike] | Sequence[Mapping[str, ArrayLike] | None] | None
    starts: Sequence[ArrayLike | Callable[[NDArray[Any]], ArrayLike]] | NDArray[Any] | None


class Given(GivenSettings, GivenQuestion):
    """Both at once, as `explain` takes them."""


class GivenEach(GivenSettings, GivenQuestions):
    """Settings and questions at once, as `explain_each` takes them."""


class GivenStream(GivenQuestion, GivenReading):
    """The question, and how a source is read, as `Explainer.stream` takes them."""


class GivenDataset(GivenSettings, GivenStart, GivenReading, total=False):
    """Settings, the question of all examples and how their source is read, as `explain_dataset` takes them."""

    target: ArrayLike | None
    against: ArrayLike | None
    conditions: Mapping[str, ArrayLike] | None
