"""The functions of users are written for JAX as it comes: types and ranks are promoted."""

import jax
import pytest


@pytest.fixture(autouse=True)
def _jax_as_it_comes():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
