"""Tests of backtrace_jax/ops."""
