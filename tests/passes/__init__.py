"""Tests of backtrace_jax/passes."""
