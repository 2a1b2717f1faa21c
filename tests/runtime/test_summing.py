"""Long sums are added up in an order of their own, which does not depend on threads."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun

from backtrace_jax.runtime.summing import LONGEST, shorten_sums, total

SHAPES = [
    ((2**16 + 7,), (0,)),
    ((3, 2**15 + 1), (1,)),
    ((2**15, 4), (0,)),
    ((2, 150, 150, 3), (1, 2)),
    ((2, 3, 190, 190), (2, 3)),
    ((5, 40_000), (0,)),
    ((4, 9, 20_000), (0, 1)),
    ((8, 40, 1000), (0, 2)),
]


@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_long_sums_are_right(shape, axes):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32) + 1
    truth = x.astype(np.float64).sum(axes)
    np.testing.assert_allclose(jax.jit(lambda x: total(x, axes))(x), truth, rtol=2e-6, atol=2e-6 * np.abs(truth).max())


def _sums(jaxpr, found):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "reduce_sum":
            (operand,) = eqn.invars
            found.append(int(np.prod(operand.aval.shape[min(eqn.params["axes"]) :])))
        for value in eqn.params.values():
            for each in value if isinstance(value, tuple) else (value,):
                inner = getattr(each, "jaxpr", each)
                if hasattr(inner, "eqns"):
                    _sums(inner, found)
    return found


def test_no_sum_stays_long_wherever_it_stands():
    def function(x, flag):
        def step(carry, row):
            return carry + jax.nn.softmax(row).sum() + jax.lax.cond(flag, jnp.sum, jnp.mean, row), row.mean()

        last, means = jax.lax.scan(step, jnp.float32(0), x)
        return last, means, jax.jit(jnp.var)(x)

    x = np.ones((2, 3 * LONGEST), np.float32)
    traced = jax.make_jaxpr(function)(x, True)
    assert max(_sums(traced.jaxpr, [])) > LONGEST
    short = shorten_sums(traced)
    assert max(_sums(short.jaxpr, [])) <= LONGEST
    found = jaxpr_as_fun(short)(x, np.asarray(True))
    for one, other in zip(found, function(x, True), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_what_holds_no_long_sum_stays_itself():
    traced = jax.make_jaxpr(lambda x: jax.nn.softmax(x).sum())(np.ones((4, 100), np.float32))
    assert shorten_sums(traced) is traced


_PROGRAM = """
import hashlib, json, sys
import jax, numpy as np
from backtrace_jax.runtime.numerics import compiled
found = []
for shape, axes in json.loads(sys.argv[1]):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    run = compiled(lambda x, axes=tuple(axes): x.sum(axes), x, device=jax.devices("cpu")[0])
    found.append(hashlib.sha256(np.asarray(run(jax.device_put(x))).tobytes()).hexdigest())
print(json.dumps(found))
"""


def test_the_bytes_are_the_same_on_any_number_of_threads():
    def hashes(threads):
        command = [sys.executable, "-c", _PROGRAM, json.dumps(SHAPES)]
        environment = {**os.environ, "PJRT_NPROC": str(threads), "JAX_PLATFORMS": "cpu"}
        return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)

    assert hashes(1) == hashes(2) == hashes(8)
