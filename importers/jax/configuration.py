"""JAX as its user has set it: a function is traced and run so, whatever this library sets around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax

_KEPT: Mapping[str, Callable[[Any], Any]] = {
    "jax_enable_x64": jax.enable_x64,
    "jax_numpy_dtype_promotion": jax.numpy_dtype_promotion,
    "jax_numpy_rank_promotion": jax.numpy_rank_promotion,
    "jax_default_matmul_precision": jax.default_matmul_precision,
    "jax_default_prng_impl": jax.default_prng_impl,
    "jax_threefry_partitionable": jax.threefry_partitionable,
    "jax_softmax_custom_jvp": jax.softmax_custom_jvp,
}
"""Settings that change what a function computes, by what sets them for a while."""

_PRECISION = "jax_default_matmul_precision"


@dataclass(frozen=True)
class Configuration:
    """Settings of JAX by name."""

    settings: tuple[tuple[str, Any], ...]

    @classmethod
    def now(cls) -> Configuration:
        """JAX as it is set; products are of full precision where nothing else was chosen."""
        found = {name: getattr(jax.config, name) for name in _KEPT}
        return cls(tuple((found | {_PRECISION: found[_PRECISION] or "highest"}).items()))

    def double(self) -> Configuration:
        """The same with 64-bit types."""
        return replace(self, settings=(*self.settings, ("jax_enable_x64", True)))

    @contextmanager
    def set(self) -> Iterator[None]:
        """Inside, JAX is set like this, and compiles even where its user has turned that off."""
        with ExitStack() as stack:
            for name, value in self.settings:
                stack.enter_context(_KEPT[name](value))
            stack.enter_context(jax.disable_jit(False))
            yield
