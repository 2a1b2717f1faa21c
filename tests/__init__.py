"""Tests of backtrace-jax."""
