"""The profile names a program's operations, with the backward pass separate."""

import re

import jax
import jax.numpy as jnp

from benchmarks import profile
from googlenet_jax.models import ops


def test_operations_of_a_trace(tmp_path):
    def loss(kernel, x):
        return jnp.sum(jnp.tanh(x @ kernel) ** 2)

    x, kernel = jnp.ones((300, 200)), jnp.ones((200, 100))
    program = jax.jit(jax.grad(loss)).lower(kernel, x).compile()
    operation_of = profile.primitives(program.as_text())
    # The kernel's gradient is a product that ends in a transposition.
    assert {"dot_general", "transpose, gradient"} <= set(operation_of.values())

    jax.block_until_ready(program(kernel, x))
    with jax.profiler.trace(str(tmp_path)):
        jax.block_until_ready(program(kernel, x))
    rows = profile.spent(tmp_path, operation_of)
    calls = {name: number for name, number, _ in rows}
    assert calls["dot_general"] == calls["transpose, gradient"] == 1
    seconds = [total for _, _, total in rows]
    assert min(seconds) > 0
    assert seconds == sorted(seconds, reverse=True)


def test_a_call_is_not_counted_beside_its_operations():
    pool = jax.jit(lambda x: ops.max_pool(x, 3, 1, ops.same_padding(3)))
    program = pool.lower(jnp.ones((2, 8, 8, 4))).compile().as_text()
    call = re.search(r"%(\S+) = \S+ call\(", program).group(1)
    operation_of = profile.primitives(program)
    assert "max" in operation_of.values()
    assert call not in operation_of
