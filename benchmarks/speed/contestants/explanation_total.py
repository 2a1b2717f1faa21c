"""The same explanation with the books of the whole graph alone."""

from __future__ import annotations

from functools import partial

from .explanation import prepare as prepare_explanation

prepare = partial(prepare_explanation, ledger="total")
