"""What `explain` and `Explainer` take by keyword, as editors and type checkers see it.

`Settings` and `Asked` say what there is and what it is when nothing is given; here is what may be given instead. A test
holds them together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, TypedDict

from numpy.typing import ArrayLike, NDArray

from backtrace_jax.batch.layout import BatchAxis
from backtrace_jax.rules import Mode


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


class GivenBeside(TypedDict, total=False):
    """What one call asks besides its inputs and targets; `explain` says what it means."""

    against: ArrayLike | None
    position: ArrayLike | None
    start: ArrayLike | Callable[[NDArray[Any]], ArrayLike] | None
    baseline: ArrayLike | Mapping[str, ArrayLike | None] | None
    conditions: Mapping[str, ArrayLike] | None
    progress: Callable[[int, int], object] | None


class GivenQuestion(GivenBeside, total=False):
    """What one call asks besides its inputs."""

    target: ArrayLike | None


class Given(GivenSettings, GivenQuestion):
    """Both at once, as `explain` takes them."""
