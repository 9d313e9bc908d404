"""`benchmarks.recipes` and `benchmarks.question`: their arms, and their table by hand."""

import math

import pytest

from benchmarks import arms, question, recipes
from configs import cifar10_modern
from googlenet_jax.models import layer_table


def line(arm, seed, none, mirror=None, epochs=20):
    accuracy = {"none": none} | ({"mirror": mirror} if mirror else {})
    settings = {"train.epochs": epochs}
    return {"arm": arm, "seed": seed, "settings": settings, "test_accuracy": accuracy}


def test_the_table_pairs_runs_with_the_same_seed():
    lines = [
        *(line("row 8", seed, none, 0.72) for seed, none in enumerate((0.70, 0.71, 0.69))),
        *(line("Nesterov", seed, none) for seed, none in ((0, 0.71), (1, 0.73))),
    ]
    rows = arms.table(lines)[2:]
    # Pairs of +1 and +2: mean 1.5, deviation sqrt(1/2); t is 12.706 for one degree of freedom.
    half = 12.706 * math.sqrt(0.5) / math.sqrt(2)
    assert (
        rows[0] == f"| 20 | Nesterov | 2 | 72.00 | +1.50 | {1.5 - half:+.2f} to {1.5 + half:+.2f} |"
    )
    assert rows[1] == "| 20 | row 8 | 3 | 70.00 |  |  |"
    assert rows[2].startswith("| 20 | row 8, tested with mirror | 3 | 72.00 | +2.00 | ")


@pytest.mark.parametrize("arm", recipes.ARMS)
def test_an_arm_is_row_8_plus_one_ingredient(arm):
    config = arms.trial(recipes.ARMS, arm, 20, 3).config
    base = arms.trial(recipes.ARMS, "row 8", 20, 3).config
    changed = {name for name, _, value in config.options()} & {
        name
        for (name, _, value), (_, _, other) in zip(config.options(), base.options(), strict=True)
        if value != other
    }
    assert changed == recipes.ARMS[arm].keys()
    assert (config.seed, config.train.epochs, config.data.downscale) == (3, 20, 2)


@pytest.mark.parametrize(
    ("arm", "size", "other"),
    [
        ("GoogLeNet, the ResNet's parameters", "parameters", "ResNet-164, 5e-4, cosine"),
        ("GoogLeNet, the ResNet's multiplications", "macs", "ResNet-164, 5e-4, cosine"),
        ("ResNet-164, GoogLeNet's parameters", "parameters", "row 8"),
        ("ResNet-20, GoogLeNet's parameters", "parameters", "row 8"),
    ],
)
def test_networks_that_are_compared_have_the_same_size(arm, size, other):
    def measure(arm):
        model = arms.trial(question.ARMS, arm, 20, 0).config.model
        return sum(getattr(row, size) for row in layer_table.layer_table(model, (16, 16, 3), 10))

    assert measure(arm) == pytest.approx(measure(other), rel=0.02)


def test_each_network_has_either_recipe():
    cells = [arms.trial(question.ARMS, arm, 20, 0).config for arm in [*question.ARMS][:8]]
    combinations = {(c.model.name, c.optimizer.weight_decay, c.optimizer.schedule) for c in cells}
    assert len(combinations) == 8


def test_a_config_s_arm_is_its_recipe_at_the_small_scale():
    config = cifar10_modern.get_config()
    config.data.cutout = 8
    assert recipes.recipe(config) == recipes.ARMS["cifar10_modern"] | {"data.cutout": 4}
    assert recipes.ARMS["cifar10_fast"].keys() < recipes.ARMS["cifar10_modern"].keys()
    assert "model.width_multiplier" not in recipes.ARMS["cifar10_modern"]


def test_an_arm_of_another_length_is_compared_with_row_8_s_20_epochs():
    lines = [line("row 8", 0, 0.5), line("row 8", 1, 0.5), line("fast", 0, 0.6, epochs=10)]
    lines.append(line("fast", 1, 0.6, epochs=10))
    rows = arms.table(lines)
    assert next(row for row in rows if "fast |" in row).startswith(
        "| 10 | fast | 2 | 60.00 | +10.00 |"
    )
