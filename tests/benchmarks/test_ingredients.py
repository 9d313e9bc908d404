"""`benchmarks.recipes` and `benchmarks.question`: their arms, and their table by hand."""

import json
import math

import pytest

from benchmarks import arms, question, recipes
from configs import cifar10_modern
from googlenet_jax.errors import UserError
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
        ("GoogLeNet, the ResNet's parameters", "parameters", "ResNet-164, 5e-4, cosine, fan-in"),
        ("GoogLeNet, the ResNet's multiplications", "macs", "ResNet-164, 5e-4, cosine, fan-in"),
        ("ResNet-164, GoogLeNet's parameters", "parameters", "GoogLeNet, 5e-4, cosine, fan-in"),
        ("ResNet-20, GoogLeNet's parameters", "parameters", "GoogLeNet, 5e-4, cosine, fan-in"),
    ],
)
def test_networks_that_are_compared_have_the_same_size(arm, size, other):
    def model(arm):
        return arms.trial(question.ARMS, arm, 20, 0).config.model

    def measure(arm):
        rows = layer_table.layer_table(model(arm), (16, 16, 3), 10)
        return sum(getattr(row, size) for row in rows)

    assert measure(arm) == pytest.approx(measure(other), rel=0.02)
    assert model(arm).init == model(other).init == "fan_in"


def test_each_network_has_each_recipe():
    assert (len(question.FACTORIAL), len(question.SCALED)) == (16, 4)
    for cell in question.CELLS:
        network, decay, schedule, init = cell
        config = arms.trial(question.ARMS, question.name(cell), 20, 0).config
        assert (
            config.model.name == {"GoogLeNet": "googlenet", "ResNet-164": "preact_resnet"}[network]
        )
        assert config.optimizer.weight_decay == float(decay)
        assert config.optimizer.schedule == {"cosine": "cosine", "steps": "step"}[schedule]
        assert config.model.init == {"fan-in": "fan_in", "fan-out": "fan_out"}[init]


def test_the_effects_are_those_that_the_runs_were_made_with():
    # The network makes 4 points, the decay 2, the schedule 1, network and decay together 3; fan-in
    # makes 20, and doubles what the network does. The scaled decays make nothing.
    def accuracy(network, decay, schedule, init):
        network, decay, schedule = (
            {"GoogLeNet": 1, "5e-4": 1, "cosine": 1, "0.0125": 0, "0.0025": 0}.get(label, -1)
            for label in (network, decay, schedule)
        )
        recipe = 0.01 * decay + 0.005 * schedule + 0.0075 * network * decay
        return recipe + (0.6 + 0.04 * network if init == "fan-in" else 0.4 + 0.02 * network)

    lines = [
        line(question.name(cell), seed, accuracy(*cell) + seed / 100)
        for cell in question.CELLS
        for seed in (0, 1, 2)
    ]
    lines.append(line("row 8", 0, 0.9, epochs=60))  # another length is another experiment
    effects = question.effects(lines)
    assert {effect.n for effect in effects.values()} == {3}
    means = [effect.mean for effect in effects.values()]
    assert means == pytest.approx([8, 2, 1, 3, 0, 0, 4, 2, 1, 3, 0, 0, 20, 4, 8, 0, 0])
    # With its own recipe GoogLeNet leads by the sum of all but the interaction, which both have.
    leads = question.leads(lines)
    assert leads["each with its own recipe, fan-in"].interval == pytest.approx((11, 11))
    assert leads["each with its own recipe, fan-out"].interval == pytest.approx((7, 7))
    row = "| each with its own recipe, fan-out | 3 | +7.00 | +7.00 to +7.00 |"
    assert row in question.tables(lines)
    assert len(question.for_figure(lines)) == len(effects) + len(leads)


def test_effects_wait_for_all_cells():
    lines = [line("row 8", 0, 0.5), line("ResNet-164, 1e-4, steps, fan-out", 0, 0.4)]
    assert question.effects(lines) == {}
    own = "each with its own recipe, fan-out"
    assert question.leads(lines).keys() == {own}
    assert question.tables(lines)[-1] == f"| {own} | 1 | +10.00 |  |"


def test_effects_at_one_kind_of_initial_weights_need_no_run_of_the_other():
    lines = [line(question.name(cell), 0, 0.5) for cell in question.FACTORIAL if "fan-in" in cell]
    effects = question.effects(lines)
    assert len(effects) == 6
    assert all(name.endswith(", fan-in") and effect.mean == 0 for name, effect in effects.items())


def test_the_figure_shows_arms_with_three_seeds_or_more(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    labels = []
    original = Axes.set_yticks
    monkeypatch.setattr(
        Axes, "set_yticks", lambda axes, *args: labels.extend(args[1]) or original(axes, *args)
    )
    accuracies = {"cutout 4": 0.5, "row 8": 0.5, "Nesterov": 0.6}
    lines = [line(arm, seed, accuracies[arm]) for arm in accuracies for seed in range(3)]
    lines += [line("mixup 0.2", seed, 0.7) for seed in range(2)]
    arms.draw(arms.gains(lines), "difference", tmp_path / "gains.png")
    assert labels == ["Nesterov, 20 epochs (3)", "cutout 4, 20 epochs (3)"]  # from the top
    assert (tmp_path / "gains.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="no difference has three seeds"):
        arms.draw(arms.gains(lines[-2:]), "difference", tmp_path / "none.png")


def test_a_config_s_arm_is_its_recipe_at_the_small_scale():
    config = cifar10_modern.get_config()
    config.data.cutout = 8
    assert recipes.recipe(config) == recipes.ARMS["cifar10_modern"] | {"data.cutout": 4}
    assert recipes.ARMS["cifar10_fast"].keys() < recipes.ARMS["cifar10_modern"].keys()
    assert "model.width_multiplier" not in recipes.ARMS["cifar10_modern"]


def test_a_table_holds_the_lines_of_its_own_settings(tmp_path, capsys):
    other = ["--config.train.batch_size=64"]
    lines = [
        arms.trial(recipes.ARMS, arm, epochs, 0, overrides).identity
        | {"test_accuracy": {"none": accuracy}}
        for arm, epochs, overrides, accuracy in (
            ("row 8", 20, [], 0.5),
            ("row 8", 100, [], 0.6),  # the default, which a line does not name
            ("row 8", 20, other, 0.7),
        )
    ]
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))

    def shown(*arguments):
        recipes.main(["--out", str(path), "--table", *arguments])
        return [row for row in capsys.readouterr().out.splitlines() if row.endswith("|  |  |")]

    assert shown() == ["| 20 | row 8 | 1 | 50.00 |  |  |", "| 100 | row 8 | 1 | 60.00 |  |  |"]
    assert shown(*other) == ["| 20 | row 8 | 1 | 70.00 |  |  |"]
    with pytest.raises(UserError, match="--plt"):
        shown("--plt=x.png")


def test_an_arm_of_another_length_is_compared_with_row_8_s_20_epochs():
    lines = [line("row 8", 0, 0.5), line("row 8", 1, 0.5), line("fast", 0, 0.6, epochs=10)]
    lines.append(line("fast", 1, 0.6, epochs=10))
    rows = arms.table(lines)
    assert next(row for row in rows if "fast |" in row).startswith(
        "| 10 | fast | 2 | 60.00 | +10.00 |"
    )
