"""Loops, branches and calls: what is known is computed, what is left becomes one scan, and the rest is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import checkify, io_callback

from backtrace_jax.errors import BacktraceError, DataDependentError, UnsupportedError
from tests.exporters.pairs import relevance
from tests.passes.graphs import operations
from tests.spellings.comparing import alike, difference

from .lowered import body_of, check_forward, imported, simplified

generator = np.random.default_rng(0)
x = generator.normal(size=(2, 4, 3)).astype(np.float32)
W = generator.normal(size=(3, 3)).astype(np.float32) / 2
b = generator.normal(size=3).astype(np.float32)
STACK = generator.normal(size=(4, 3, 3)).astype(np.float32) / 2
BIASES = generator.normal(size=(4, 3)).astype(np.float32)


def over_time(step, x, first, **settings):
    """A scan over axis 1, the batch in front."""
    last, ys = lax.scan(step, first, jnp.swapaxes(x, 0, 1), **settings)
    return last, jnp.swapaxes(ys, 0, 1)


def plain(h, x):
    h = jnp.tanh(x @ W + h @ W + b)
    return h, h


def zeros(x):
    return jnp.zeros((x.shape[0], 3))


def counted(x):
    """A counter and a clock beside the state."""

    def step(carry, x):
        i, clock, h = carry
        h = jnp.tanh(h @ W + x * i + clock)
        return (i + 1, clock * 0.5, h), (h, i * 2)

    (i, clock, h), (ys, twice) = lax.scan(step, (0, jnp.ones(3), zeros(x)), jnp.swapaxes(x, 0, 1))
    return ys.sum(0) * i + h + clock + twice.sum()


def jitted_step(x):
    step = jax.jit(lambda carry, x: ((carry[0] + 1, carry[1] @ W + x * carry[0]), carry[1]))
    return over_time(step, x, (0, zeros(x)))[0][1]


def nested(x):
    def outer(h, x):
        inner, _ = lax.scan(lambda g, i: (jnp.tanh(g @ W + x * i), None), h, jnp.arange(3.0))
        return inner, inner

    return over_time(outer, x, zeros(x))[1]


def unused(x):
    """A state that no result is computed from, and keys that nothing is drawn from."""

    def step(carry, x):
        key, h, waste = carry
        key, _ = jax.random.split(key)
        return (key, jnp.tanh(h @ W + x), waste * h), h

    return over_time(step, x, (jax.random.key(0), zeros(x), zeros(x)))[1]


SCANS = {
    "states and results": lambda x: over_time(plain, x, zeros(x))[1],
    "the last state": lambda x: over_time(plain, x, zeros(x))[0],
    "a first state from outside": lambda x: over_time(plain, x, x[:, 0])[0],
    "backwards": lambda x: over_time(plain, x, zeros(x), reverse=True)[1],
    "unrolled by JAX": lambda x: over_time(plain, x, zeros(x), unroll=2)[1],
    "without sequences": lambda x: lax.scan(lambda h, _: (h @ W + b, h), x, length=3)[1].sum(0),
    "a counter and a clock": counted,
    "a counter inside jit": jitted_step,
    "a loop in a loop": nested,
    "a step computed again": lambda x: over_time(jax.checkpoint(plain), x, zeros(x))[1],
    "unused parts": unused,
    "fori_loop": lambda x: lax.fori_loop(0, 3, lambda i, h: h @ W + i * b, x),
    "fori_loop with array bounds": lambda x: lax.fori_loop(jnp.int32(1), jnp.int32(4), lambda i, h: h @ W + i * b, x),
    "a while loop that is counted": lambda x: lax.while_loop(
        lambda c: c[0] < 20, lambda c: (c[0] * 3, c[1] @ W), (1, x)
    )[1],
}


@pytest.mark.parametrize("name", SCANS)
def test_loops_become_one_scan_without_what_is_known(name):
    scan = body_of(check_forward(SCANS[name], x))
    assert scan.params["states"] == 1
    assert all(var.is_float for var in scan.params["body"].inputs[:1])


def recurrences(x):
    """Recurrent layers one on the other, their weights stacked."""

    def layer(xs, weights):
        return lax.scan(lambda h, x: (jnp.tanh(x @ weights + h @ weights),) * 2, jnp.zeros_like(xs[0]), xs)[1], None

    return lax.scan(layer, jnp.swapaxes(x, 0, 1), jnp.asarray(STACK[:2]))[0][-1]


@pytest.mark.parametrize(
    ("model", "loops"),
    [
        (lambda x: lax.scan(lambda c, _: ((c[1], c[0] @ W), c[0]), (x, x * 2), length=3)[1].sum(0), 1),
        (lambda x: lax.scan(lambda c, _: ((c[0] @ W + c[1], 2.0), None), (x, 1.0), length=3)[0][0], 1),
        (lambda x: x * lax.scan(lambda c, r: ((c[0] + r.sum(), c[1] + 1), c[1]), (0.0, 0), x)[1].sum(), 0),
        (lambda x: lax.scan(lambda h, i: (lax.cond(i % 2 == 0, jnp.tanh, jnp.sin, h), None), x, jnp.arange(3))[0], 1),
        (recurrences, 2),
    ],
)
def test_states_may_depend_on_each_other_and_on_what_is_known(model, loops):
    assert operations(check_forward(model, x)).count("scan") == loops


def test_carries_that_never_change_are_constants():
    def step(carry, x):
        weights, h = carry
        return (weights, jnp.tanh(h @ weights + x)), h

    scan = body_of(check_forward(lambda x: over_time(step, x, (jnp.asarray(W), zeros(x)))[1], x))
    assert scan.params["states"] == 1
    assert scan.params["sequences"] == 1


def test_a_loop_of_known_values_is_computed():
    program = check_forward(lambda x: x * lax.fori_loop(0, 3, lambda i, c: c * 2 + i, 1.0), x)
    assert operations(program) == ["mul"]
    program = check_forward(lambda x: lax.fori_loop(0, 0, lambda i, c: c * 2, x) + 1, x)
    assert operations(program) == ["add"]


MAPS = {
    "over examples": lambda x: lax.map(lambda row: jnp.tanh(row @ W + b), x),
    "over time": lambda x: jnp.swapaxes(lax.map(lambda row: row @ W + b, jnp.swapaxes(x, 0, 1)), 0, 1),
    "over weights": lambda x: lax.map(lambda weights: x @ weights, jnp.asarray(STACK)).sum(0),
    "by parts": lambda x: lax.map(lambda row: row @ W + b, x, batch_size=1),
}


@pytest.mark.parametrize("name", MAPS)
def test_steps_that_hand_nothing_on_are_computed_side_by_side(name):
    assert "scan" not in operations(check_forward(MAPS[name], x))


def test_what_is_batched_step_by_step_is_a_loop():
    one = jax.custom_batching.sequential_vmap(lambda row: jnp.tanh(row @ W))
    assert body_of(check_forward(lambda x: jax.vmap(one)(x), x)).params["states"] == 0
    called = jax.vmap(lambda row: jax.pure_callback(lambda row: row, row, row, vmap_method="sequential"))
    assert str(refused(lambda x: called(x))).startswith("pure_callback (from ")


def layer(h, weights):
    K, bias = weights
    return jax.nn.relu(h @ K + bias), None


def scanned(x, **settings):
    return lax.scan(layer, x, (jnp.asarray(STACK), jnp.asarray(BIASES)), **settings)[0]


def written_out(x):
    for weights in zip(STACK, BIASES, strict=True):
        x, _ = layer(x, weights)
    return x


def backwards(x):
    for weights in zip(STACK[::-1], BIASES[::-1], strict=True):
        x, _ = layer(x, weights)
    return x


def diagonal(x):
    return lax.scan(lambda h, w: (jnp.tanh(h * w + w), None), x, jnp.asarray(BIASES))[0]


def diagonal_written_out(x):
    for w in BIASES:
        x = jnp.tanh(x * w + w)
    return x


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (scanned, written_out),
        (lambda x: scanned(x, reverse=True), backwards),
        (diagonal, diagonal_written_out),
    ],
)
def test_a_loop_over_layers_is_the_layers_one_after_the_other(one, other):
    check_forward(one, x)
    found = simplified(one, x)
    assert "scan" not in operations(found)
    assert alike(found, simplified(other, x))


def test_layers_are_named_by_their_turn():
    def step(h, weights):
        with jax.named_scope("layers"):
            return jax.nn.relu(h @ weights), None

    def model(x):
        with jax.named_scope("model"):
            return lax.scan(step, x, jnp.asarray(STACK))[0]

    modules = [eqn.source.module for eqn in imported(model, x).graph.eqns if eqn.op == "matmul"]
    assert modules == [f"model.layers.{i}" for i in range(4)]


def test_known_sequences_that_are_no_weights_stay_sequences():
    times = jnp.arange(3.0)
    scan = body_of(check_forward(lambda x: lax.scan(lambda h, t: (jnp.tanh(h @ W) * t, h), x, times)[1].sum(0), x))
    assert scan.params["sequences"] == 1


BRANCHES = {
    "cond": lambda row: lax.cond(row.sum() > 0, lambda r: jnp.tanh(r @ W), lambda r: r @ W + b, row),
    "switch": lambda row: lax.switch(jnp.argmax(row[0]), [lambda r: r @ W, lambda r: -r, lambda r: r * r], row),
    "a shared result": lambda row: lax.cond(row.sum() > 0, lambda r: (r, r @ W), lambda r: (r, r @ W @ W), row)[1],
}


@pytest.mark.parametrize("name", BRANCHES)
def test_of_branches_that_inputs_decide_one_is_chosen(name):
    for row in x:
        check_forward(BRANCHES[name], row, None)
    check_forward(lambda x: jax.vmap(BRANCHES[name])(x), x)


def test_relevance_goes_through_the_branch_that_is_taken():
    row = x[0]
    taken = simplified(BRANCHES["cond"], row, None)
    plain = simplified(lambda row: jnp.tanh(row @ W) if x[0].sum() > 0 else row @ W + b, row, None)
    found, wanted = (relevance(each, {"row": row.astype(np.float64)}, "default") for each in (taken, plain))
    assert difference(found, wanted) < 1e-12


def test_a_branch_that_is_known_is_lowered_alone():
    branches = [lambda x: x @ W, lambda x: -x, lambda x: lax.while_loop(lambda x: x.sum() < 1, lambda x: x + 1, x)]
    assert operations(check_forward(lambda x: lax.switch(jnp.int32(1), branches, x), x)) == ["neg"]
    assert operations(check_forward(lambda x: lax.switch(jnp.int32(-3), branches, x), x)) == ["matmul"]


@jax.custom_vjp
def doubled(x):
    return x * 2


doubled.defvjp(lambda x: (x * 2, None), lambda _, ct: (ct * 5,))

own_batch = jax.custom_batching.custom_vmap(lambda x: x * 2)
own_batch.def_vmap(lambda size, batched, x: (x * 2, True))

CALLS = {
    "jit": lambda x: jax.jit(lambda x: x * 2, donate_argnums=0, inline=True)(x),
    "remat": lambda x: jax.checkpoint(lambda x: x * 2, policy=jax.checkpoint_policies.everything_saveable)(x),
    "custom_vjp": lambda x: doubled(x),
    "custom_jvp": lambda x: jax.nn.relu(x),
    "custom_vmap": lambda x: own_batch(x),
    "a name for what is kept": lambda x: checkpoint_name(x * 2, "kept"),
    "a gradient": lambda x: jax.grad(lambda x: (x**3).sum())(x),
    "a check": lambda x: checkify.checkify(jax.jit(lambda x: x * 2))(x)[1],
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_lowered_where_they_are(name):
    assert operations(check_forward(CALLS[name], x))


def refused(function, inputs=x, axis=0):
    with pytest.raises(BacktraceError) as raised:
        imported(function, inputs, axis)
    assert len(str(raised.value)) < 400
    assert "test_control.py" in str(raised.value)
    return raised.value


def test_a_loop_that_the_inputs_count_is_refused_with_the_inputs():
    def model(x, n):
        def step(carry):
            return carry[0] + 1, carry[1] @ W

        return lax.while_loop(lambda carry: carry[0] < n[0], step, (0, x))[1]

    error = refused(model, (x, np.full(2, 3)))
    assert isinstance(error, DataDependentError)
    assert error.inputs == {"n"}
    error = refused(lambda x: lax.while_loop(lambda h: h.sum() < 9, lambda h: h + 1, x))
    assert error.inputs == {"x"}
    assert "lax.scan" in str(error)


def test_a_loop_without_end_is_refused():
    error = refused(lambda x: lax.while_loop(lambda c: c[0] >= 0, lambda c: (c[0] * 1, c[1] + 1), (1, x))[1])
    assert "1000000" in str(error)


def test_a_branch_that_cannot_be_lowered_is_named():
    def model(x):
        return lax.cond(
            x.sum() > 5, lambda x: x, lambda x: lax.while_loop(lambda x: x.sum() < 3, lambda x: x + 1, x), x
        )

    assert "while" in str(refused(model))


def reference(x):
    ref = jax.new_ref(x)
    ref[0] += 1.0
    return ref[...]


MESH = jax.sharding.Mesh(jax.devices()[:1], ("a",))
SPEC = jax.sharding.PartitionSpec()
REFUSED = {
    "pure_callback": lambda x: jax.pure_callback(lambda x: x, x, x),
    "io_callback": lambda x: io_callback(lambda x: x, x, x, ordered=True),
    "new_ref": reference,
    "shard_map": lambda x: jax.shard_map(lambda x: lax.psum(x, "a"), mesh=MESH, in_specs=SPEC, out_specs=SPEC)(x),
    "psum": lambda x: jax.vmap(lambda x: lax.psum(x, "a"), axis_name="a")(x),
    "custom_linear_solve": lambda x: lax.custom_linear_solve(lambda v: 2 * v, x, lambda _, b: b / 2, symmetric=True),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_rule_can_follow_is_refused_by_name_and_line(name):
    error = refused(REFUSED[name])
    assert isinstance(error, UnsupportedError)
    assert str(error).startswith(f"{name} (from ")


def test_a_callback_is_not_called_while_a_model_is_read():
    called = []

    def model(x):
        return x + jax.pure_callback(lambda: called.append(1) or np.float32(1), jax.ShapeDtypeStruct((), np.float32))

    refused(model)
    assert not called


def test_what_is_printed_computes_nothing(capsys):
    def model(x):
        jax.debug.print("{}", x.sum())
        return x * 2

    assert operations(check_forward(model, x)) == ["mul"]
