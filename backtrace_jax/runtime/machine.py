"""What the machine, its libraries and their settings are, as far as the bytes of a compiled function depend on them."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from backtrace_jax.errors import SettingError

_JAX_SETTINGS = (
    *("jax_optimization_level", "jax_exec_time_optimization_effort", "jax_memory_fitting_level"),
    *("jax_memory_fitting_effort", "jax_compiler_enable_remat_pass", "jax_disable_most_optimizations"),
    *("jax_enable_pgle", "jax_xla_profile_version", "jax_use_shardy_partitioner", "jax_use_direct_linearize"),
)
"""Settings that reach the compiler, or what it is given, beside those that are pinned (see `numerics`)."""

_KIND = frozenset(
    {
        *("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "cpu", "machine", "isa", "uarch"),
        *("Features", "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision"),
    }
)
"""Lines of /proc/cpuinfo that say which processor it is; the others say which of them, or how fast it is just now."""


def host_devices() -> list[Any]:
    """The host's processors, as JAX counts them.

    Raises:
        SettingError: When JAX has been told to leave them out.
    """
    try:
        return jax.local_devices(backend="cpu")
    except RuntimeError as error:
        raise SettingError(
            f"JAX may not use the host's CPU here ({error}), but the constants of a model are computed there; "
            "add it after the device that is to run the model: JAX_PLATFORMS=cuda,cpu"
        ) from error


def local_devices(count: int | str) -> list[Any]:
    """So many devices of this process, or "all" of them.

    Raises:
        SettingError: When there are fewer.
    """
    here = jax.local_devices()
    if isinstance(count, str):
        return here
    if count > len(here):
        raise SettingError(f"devices={count}: this process has {len(here)}; leave it out, or pass devices='all'")
    return here[:count]


def threads() -> int:
    """Threads of XLA's CPU backend; products, convolutions and sums have the same bytes on any number of them."""
    visible = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(int(os.environ.get("PJRT_NPROC", 0)) or visible, len(host_devices()))


@cache
def xla_flags() -> str:
    """The flags that XLA has read, once in a process: those of XLA_FLAGS, or those in the file that it names."""
    given = os.environ.get("XLA_FLAGS", "").strip()
    if given.startswith("-") or not Path(given).is_file():
        return given
    return " ".join(Path(given).read_text().split())


@cache
def processor() -> tuple[str, ...]:
    """The host's processor: its kind and its features, as the system lists them."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:  # not Linux
        first = ""
    lines = [line.partition(":") for line in first.splitlines()]
    told = tuple(f"{name.strip()}: {' '.join(value.split())}" for name, _, value in lines if name.strip() in _KIND)
    return platform.machine(), *(told or (platform.processor(), *simd()))


def simd() -> list[str]:
    """Extensions of the host's instruction set that NumPy finds."""
    return np.show_config(mode="dicts")["SIMD Extensions"]["found"]


@cache
def versions() -> dict[str, str]:
    """Versions of what traces, compiles and runs."""
    return {"backtrace_jax": version("backtrace-jax"), "jax": jax.__version__, "jaxlib": version("jaxlib")}


def jax_settings() -> dict[str, str]:
    """Settings of JAX that reach the compiler, as they are in this thread."""
    return {
        name: str(getattr(jax.config, name, jax.config.values[name]))  # the second is that of the whole process
        for name in _JAX_SETTINGS
        if name in jax.config.values
    }


def conditions(device: Any) -> dict[str, Any]:
    """All of this, for a device: what an executable depends on besides the function and the compiler's options."""
    return {
        **versions(),
        "device": [device.platform, device.device_kind, device.client.platform_version],
        "processor": processor(),
        "threads": threads(),
        "flags": [xla_flags(), os.environ.get("LIBTPU_INIT_ARGS", "")],
        "jax_settings": jax_settings(),
    }
