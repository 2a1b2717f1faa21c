"""Tests of backtrace_jax/rules."""
