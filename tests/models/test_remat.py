"""Rematerialisation: the same numbers, from blocks that are computed twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from googlenet_jax import models
from googlenet_jax.config import ModelConfig
from googlenet_jax.models.googlenet import Inception, Widths
from googlenet_jax.models.layer_table import layer_table
from googlenet_jax.models.preact_resnet import Block


def inception(config):
    return Inception(4, Widths(2, 2, 3, 2, 3, 2), config, rngs=nnx.Rngs(0))


def bottleneck(config):
    return Block(4, 8, 2, config, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("build", [inception, bottleneck])
def test_a_block_has_the_same_numbers_to_the_bit(build):
    """Its output, its gradients and the new statistics; it works harder for them."""
    images = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8, 8, 4)), jnp.float32)
    found, flops = [], []
    for remat in (False, True):
        graphdef, params, stats = nnx.split(
            build(ModelConfig(remat=remat)), nnx.Param, nnx.BatchStat
        )

        def loss(params, images, graphdef=graphdef, stats=stats):
            block = nnx.merge(graphdef, params, stats, copy=True)
            y = block(images, True)
            return (y**2).sum(), (y, nnx.to_pure_dict(nnx.state(block, nnx.BatchStat)))

        lowered = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True)).lower(params, images)
        flops.append(lowered.cost_analysis()["flops"])
        found.append(jax.tree.leaves(lowered.compile()(params, images)))
    assert flops[1] > 1.15 * flops[0]
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other)


def test_every_inception_block_is_computed_twice_in_training_only():
    network = models.create(ModelConfig(remat=True, width_multiplier=1 / 16), (8, 8, 1), 10)
    graphdef, state = nnx.split(network)

    def count(train):
        def logits(state, images):
            return nnx.merge(graphdef, state, copy=True)(images, train=train, key=key)[0]

        key = jax.random.key(0)
        images = jnp.zeros((2, 8, 8, 1))
        return str(jax.make_jaxpr(logits)(state, images)).count("prevent_cse=")

    assert (count(True), count(False)) == (9, 0)


def test_the_summary_is_the_same():
    table = [layer_table(ModelConfig(remat=remat), (8, 8, 1), 10) for remat in (False, True)]
    assert table[0] == table[1]
