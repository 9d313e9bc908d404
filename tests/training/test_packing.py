"""Packing a state into vectors loses nothing, and steps on it are the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import NUM_CLASSES, Tiny, hyperparameters, make_data, make_state, noisy

from googlenet_jax.training import optimizer, state, step


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.array_equal(one, other)


def moved_state(rule):
    """Returns a state with random numbers in every leaf."""
    fresh = state.create(jax.random.key(3), Tiny, rule, NUM_CLASSES)
    leaves, structure = jax.tree.flatten(fresh)
    rng = np.random.default_rng(0)
    return structure.unflatten(
        jnp.asarray(rng.uniform(1, 9, leaf.shape).astype(leaf.dtype)) for leaf in leaves
    )


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("rule", [optimizer.sgd, optimizer.adam])
def test_unpacking_restores_the_state(rule, platform):
    whole = moved_state(rule)
    packed = whole.packed(platform)
    assert_equal(packed.unpacked(), whole)
    assert np.array_equal(
        *(
            jnp.concatenate(jax.tree.leaves(jax.tree.map(jnp.ravel, tree)))
            for tree in (packed.packing.pack(whole.params), packed.params)
        )
    )
    if platform != "tpu":
        momentum = [leaf for leaf in jax.tree.leaves(packed.opt_state) if leaf.ndim]
        assert [leaf.shape for leaf in momentum] == [packed.params["other"].shape] * len(momentum)


def test_on_a_gpu_kernels_have_output_channels_first():
    """As in cuDNN, so that a kernel is a slice of the vector without a transposition."""
    whole = moved_state(optimizer.sgd)
    packed = whole.packed("gpu")
    kernel = np.asarray(whole.params["unit"]["conv"]["kernel"]).transpose(3, 0, 1, 2).ravel()
    vector = np.asarray(packed.params["other"])
    assert any(
        np.array_equal(vector[i : i + kernel.size], kernel)
        for i in range(vector.size - kernel.size + 1)
    )


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_steps_are_the_same_however_the_state_is_packed(platform, monkeypatch):
    """Up to the order of sums. Packings for other devices also work on a CPU."""
    run = functools.partial(step.train_steps.__wrapped__, batch_size=8, preprocess=noisy)
    data, key = make_data(32), jax.random.key(1)
    arguments = data, jnp.arange(32), jnp.int32(3), key, hyperparameters()
    expected = run(make_state(), *arguments)
    monkeypatch.setattr("googlenet_jax.parallel.platform", lambda mesh=None: platform)
    found = run(make_state(), *arguments)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_other_hyperparameters_need_no_new_program():
    """Learning rates, momentum, weight decay and the numbers of the loss are arguments."""
    data, key = make_data(32), jax.random.key(1)
    program = step.train_steps.lower(
        make_state(),
        data,
        jnp.arange(32),
        jnp.int32(1),
        key,
        hyperparameters(),
        batch_size=8,
        preprocess=noisy,
    )
    other = step.Hyperparameters(np.full(1, 7, np.float32), *np.float32([0.1, 0.2, 0.3, 0.4]))
    again = step.train_steps.lower(
        make_state(),
        data,
        jnp.arange(32),
        jnp.int32(1),
        jax.random.key(5),
        other,
        batch_size=8,
        preprocess=noisy,
    )
    assert program.as_text() == again.as_text()
    arguments = make_state(), data, jnp.arange(32), jnp.int32(1), key
    still = hyperparameters(learning_rate=0.0)
    kept = program.compile()(*arguments, still)
    assert_equal(kept.params, make_state().params)
