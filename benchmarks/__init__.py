"""Measurements that take long; each compiles for itself, whatever the cache of executables holds."""

import os

os.environ.setdefault("BACKTRACE_JAX_CACHE", "off")
