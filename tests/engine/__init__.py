"""Tests of backtrace_jax/engine."""
