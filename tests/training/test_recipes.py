"""The ingredients of recipes against PyTorch, or against formulas in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import NUM_CLASSES, Tiny, hyperparameters, make_data, make_state, noisy

from googlenet_jax.config import Config, OptimizerConfig
from googlenet_jax.data import augment, epoch_order, preprocess
from googlenet_jax.data.dataset import DatasetInfo
from googlenet_jax.training import optimizer, state, step
from googlenet_jax.training.loss import cross_entropy
from googlenet_jax.training.optimizer import UpdateRule

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture
def standard_promotion():
    """Optax mixes types in Adam and in its schedules."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def random_tree(seed):
    rng = np.random.default_rng(seed)
    shapes = {"conv": {"kernel": (3, 3, 2, 4), "bias": (4,)}, "bn": {"scale": (4,), "bias": (4,)}}
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


@pytest.mark.parametrize(
    "rule",
    [
        UpdateRule("sgd", nesterov=True),
        UpdateRule("sgd", decay_kernels_only=True),
        UpdateRule("sgd", norm_bias_factor=64.0),
        UpdateRule("sgd", nesterov=True, decay_kernels_only=True, norm_bias_factor=8.0),
        UpdateRule("adam", decay_kernels_only=True, norm_bias_factor=2.0),
        UpdateRule("sgd", norm_bias_factor=8.0, trunk=("conv",), trunk_factor=0.1),
        UpdateRule("adam", trunk=("conv", "bn")),
    ],
    ids=str,
)
def test_updates_equal_pytorch(rule, standard_promotion):
    """PyTorch's parameter groups set which parameters decay and which learn faster."""
    params = random_tree(0)
    mine = {path: torch.nn.Parameter(torch.tensor(leaf)) for path, leaf in flat(params).items()}
    groups = []
    for path, parameter in mine.items():
        is_decayed = path.endswith("kernel") or not rule.decay_kernels_only
        factor = rule.norm_bias_factor if path == "bn.bias" else 1
        factor *= rule.trunk_factor if path.partition(".")[0] in rule.trunk else 1
        groups.append({"params": [parameter], "lr": 0.1 * factor})
        groups[-1]["weight_decay"] = 0.01 * is_decayed
    if rule.name == "sgd":
        theirs = torch.optim.SGD(groups, momentum=0.9, nesterov=rule.nesterov)
    else:
        theirs = torch.optim.Adam(groups, betas=(0.9, 0.999))
    opt_state = rule(0.0, 0.0, 0.0).init(params)
    for number in range(1, 5):
        gradients = random_tree(number)
        for path, leaf in flat(gradients).items():
            mine[path].grad = torch.tensor(leaf)
        theirs.step()
        updates, opt_state = rule(0.1, 0.9, 0.01).update(gradients, opt_state, params)
        params = jax.tree.map(jnp.add, params, updates)
    for path, leaf in flat(params).items():
        np.testing.assert_allclose(leaf, mine[path].detach().numpy(), rtol=2e-5, atol=2e-5)


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="."): leaf for p, leaf in leaves}


def test_one_cycle_equals_pytorch(standard_promotion):
    steps = 40
    theirs = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    cycle = torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=0.4, total_steps=steps)
    expected = []
    for _ in range(steps):
        expected.append(theirs.param_groups[0]["lr"])
        theirs.step()
        if len(expected) < steps:
            cycle.step()
    config = OptimizerConfig(learning_rate=0.4, schedule="one_cycle")
    found = optimizer.create_schedule(config, 8, steps)(jnp.arange(steps))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_linear_by_hand():
    """Two steps of warm-up, then a decrease by 0.1 a step."""
    config = OptimizerConfig(
        learning_rate=0.8, schedule="linear", schedule_per="step", warmup_epochs=0.5
    )
    found = optimizer.create_schedule(config, 4, 10)(jnp.arange(10))
    expected = [0.4, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_soft_targets_equals_pytorch(smoothing):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 5)).astype(np.float32)
    targets = rng.dirichlet(np.ones(5), 6).astype(np.float32)
    found = cross_entropy(jnp.asarray(logits), jnp.asarray(targets), smoothing)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(targets), reduction="none", label_smoothing=smoothing
    )
    np.testing.assert_allclose(found, expected.numpy(), rtol=2e-6)
    labels = rng.integers(0, 5, 6).astype(np.int32)
    hard = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
    soft = cross_entropy(jnp.asarray(logits), jax.nn.one_hot(labels, 5), smoothing)
    np.testing.assert_allclose(hard, soft, rtol=2e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_weights_equal_pytorch(smoothing):
    """The loss of a step, of labels and of mixed labels."""
    fresh, data, key = make_state(), make_data(12), jax.random.key(0)
    images, weights = data.images / 255, np.linspace(0.2, 3, NUM_CLASSES, dtype=np.float32)
    mixed = np.random.default_rng(0).dirichlet(np.ones(NUM_CLASSES), 12).astype(np.float32)
    numbers = hyperparameters()._replace(
        class_weights=weights, label_smoothing=np.float32(smoothing)
    )
    logits, *_ = fresh.apply(fresh.params, images, train=True, key=key)
    theirs = torch.nn.CrossEntropyLoss(torch.tensor(weights), label_smoothing=smoothing)
    for targets in (None, mixed):
        wanted = np.asarray(data.labels, np.int64) if targets is None else targets
        expected = theirs(torch.tensor(np.asarray(logits)), torch.tensor(wanted))
        given = None if targets is None else jnp.asarray(targets)
        found = step.train_step(fresh, images, data.labels, key, numbers, given).report.loss
        assert float(found) == pytest.approx(expected.item(), rel=1e-5)


def run(fresh, num_steps, rule_numbers, calls=1):
    data = make_data(64)
    order = epoch_order(jax.random.key(0), 0, 64)
    for _ in range(calls):
        fresh = step.train_steps(
            fresh,
            data,
            order,
            jnp.int32(num_steps // calls),
            jax.random.key(1),
            rule_numbers,
            batch_size=8,
            preprocess=noisy,
        )
    return fresh


def averaged_state():
    return state.create(jax.random.key(3), Tiny, optimizer.sgd, NUM_CLASSES, has_average=True)


def test_the_moving_average_by_hand():
    """Against the average of the states of a run without it, which takes the same steps."""
    numbers = hyperparameters()._replace(ema_decay=np.float32(0.7))
    expected = None
    plain = make_state()
    for taken in range(6):
        before = jax.tree.map(np.asarray, (plain.params, plain.batch_stats))
        expected = expected or before
        plain = run(plain, 1, numbers)
        decay = min(0.7, (1 + taken) / (10 + taken))
        new = plain.params, plain.batch_stats
        expected = jax.tree.map(lambda old, x, d=decay: d * old + (1 - d) * x, expected, new)
    found = run(averaged_state(), 6, numbers)
    for one, other in zip(*map(jax.tree.leaves, (found.params, plain.params)), strict=True):
        assert np.array_equal(one, other)  # training is unaffected
    for one, other in zip(*map(jax.tree.leaves, ((*found.average,), expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    used = found.for_inference()
    assert used.average is None
    assert jax.tree.leaves(used.params)[0] is jax.tree.leaves(found.average.params)[0]


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize(
    "rule",
    [
        optimizer.sgd,
        UpdateRule("sgd", True, True, 4.0),
        UpdateRule("sgd", True, True, 4.0, trunk=("unit",), trunk_factor=0.5),
    ],
    ids=str,
)
def test_packed_steps_are_the_same(rule, platform, monkeypatch):
    def fresh():
        return state.create(jax.random.key(3), Tiny, rule, NUM_CLASSES, has_average=True)

    numbers = hyperparameters()._replace(ema_decay=np.float32(0.9))
    found = []
    for each in (platform, "tpu"):  # on a TPU nothing is packed
        monkeypatch.setattr("googlenet_jax.parallel.platform", lambda mesh=None, p=each: p)
        jax.clear_caches()
        found.append(jax.tree.leaves(run(fresh(), 4, numbers)))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_the_update_groups_of_a_network():
    rule = UpdateRule("sgd", decay_kernels_only=True, norm_bias_factor=2.0)
    leaves = jax.tree_util.tree_leaves_with_path(make_state().params)
    found = {jax.tree_util.keystr(p, simple=True, separator="."): rule.group(p) for p, _ in leaves}
    assert found == {
        "fc.bias": "other",
        "fc.kernel": "kernel",
        "unit.bn.bias": "norm_bias",
        "unit.bn.scale": "other",
        "unit.conv.bias": "other",
        "unit.conv.kernel": "kernel",
    }


@pytest.mark.parametrize("changes", [{"cutout": 4}, {"mixup": 0.5}, {"cutmix": 1.0, "mixup": 1.0}])
def test_training_applies_the_augmentations_of_the_config(changes):
    config = Config()
    for name, value in changes.items():
        setattr(config.data, name, value)
    info = DatasetInfo("x", tuple("abcdefghij"), (8, 8, 1), (0.0,), (1.0,))
    data = make_data(16)
    batch = preprocess.Batch(data.images, data.labels)
    prepare = jax.jit(preprocess.for_training(config.data, info))
    plain = jax.jit(preprocess.for_training(Config().data, info))
    images, targets = prepare(jax.random.key(0), batch)
    before, none = plain(jax.random.key(0), batch)
    assert none is None
    is_mixed = {"mixup", "cutmix"} & changes.keys()
    assert (targets is not None) == bool(is_mixed)
    if is_mixed:
        np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
        assert ((targets > 0).sum(axis=1) <= 2).all()
    else:
        changed = (images != before).any(axis=(1, 2, 3))
        assert int(changed.sum()) > 8
        assert float(jnp.where(images != before, jnp.abs(images), 0).sum()) == 0


def test_alternate_flip_mirrors_the_marked_images():
    config = Config()
    config.data.pad, config.data.alternate_flip = 0, True
    info = DatasetInfo("x", tuple("abcdefghij"), (8, 8, 1), (0.0,), (1.0,))
    data = make_data(16)
    prepare = preprocess.for_training(config.data, info)
    mirrored = jnp.arange(16) % 3 == 0
    images, _ = prepare(jax.random.key(0), preprocess.Batch(data.images, data.labels, mirrored))
    plain = np.asarray(data.images, np.float32) / 255
    expected = np.where(np.asarray(mirrored)[:, None, None, None], plain[:, :, ::-1], plain)
    np.testing.assert_allclose(images, expected, rtol=1e-6)


def test_test_time_augmentation_computes_each_view_once(monkeypatch):
    fresh, data = make_state(), make_data(8)
    networks = []
    merge = nnx.merge
    monkeypatch.setattr(nnx, "merge", lambda *a, **k: networks.append(a) or merge(*a, **k))
    images = jax.ShapeDtypeStruct((8, 8, 8, 1), jnp.float32)
    for tta, views in (("none", 1), ("mirror", 2), ("shifts", 6)):
        networks.clear()
        jax.eval_shape(functools.partial(step.eval_step, tta=tta), fresh, images, data.labels)
        assert len(networks) == views


def test_test_time_augmentation_is_the_mean_over_views():
    fresh, data = make_state(), make_data(8)
    images = noisy(jax.random.key(0), preprocess.Batch(data.images, data.labels))[0]
    logits = sum(weight * fresh.infer(view)[0] for weight, view in augment.views(images, "shifts"))
    found = step.eval_step(fresh, images, data.labels, tta="shifts")
    expected = cross_entropy(logits, data.labels).sum()
    assert float(found.loss_sum) == pytest.approx(float(expected), rel=1e-5)
    assert float(found.loss_sum) != float(step.eval_step(fresh, images, data.labels).loss_sum)
