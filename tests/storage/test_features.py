"""Activations of named layers and class maps, against a forward pass in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy_googlenet
import pytest
import tiny_run

import googlenet_jax
import train.features
from googlenet_jax.data.preprocess import normalize
from googlenet_jax.errors import UserError
from googlenet_jax.storage import pretrained

pytestmark = pytest.mark.usefixtures("compiled_quickly")
SAMPLES = sorted((pretrained.FOLDER / "digits" / "samples").glob("*.png"))


@pytest.fixture(scope="module")
def model():
    """The shipped network."""
    return googlenet_jax.load("digits")


@pytest.fixture(scope="module")
def images(model):
    """The sample pictures, normalised."""
    return normalize(jnp.asarray(model.read(*SAMPLES)), model.info.mean, model.info.std)


@pytest.fixture(scope="module")
def expected(model, images):
    """The outputs of all layers for the sample pictures, by name."""
    outputs = {}
    params, stats = jax.device_get((model.state.params, model.state.batch_stats))
    outputs["fc"], *_ = numpy_googlenet.forward(params, stats, images, False, outputs)
    outputs["dropout"] = outputs["inception5b"].mean(axis=(1, 2))
    return outputs


def assert_close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_every_layer_gives_what_it_gives_by_hand(model, images, expected):
    found = jax.jit(lambda state, images: state.activations(images))(model.state, images)
    pools = {name for name in found if name.endswith(".pool")}
    assert len(pools) == 9
    assert found.keys() - pools == expected.keys()
    for name, wanted in expected.items():
        assert_close(found[name], wanted)


def test_features_of_files_and_of_arrays(model, expected):
    assert_close(model.features(SAMPLES, "inception4e"), expected["inception4e"])
    vectors = model.features(model.read(*SAMPLES), layer="dropout")
    assert vectors.dtype == np.float32
    assert_close(vectors, expected["dropout"])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            "inception4f",
            "must be one of conv1, conv2, dropout, fc, inception3a, .*maxpool4; a part ",
        ),
        ("inception4e.conv7x7", r"must be one of inception4e\.conv1x1, inception4e\.conv3x3, "),
        ("conv1.bn", "must be one of conv1, conv2"),
    ],
)
def test_a_wrong_layer_names_the_others(model, layer, message):
    with pytest.raises(UserError, match=f"layer '{layer}': {message}"):
        model.features(SAMPLES[:1], layer)


def test_no_picture_has_no_features(model):
    with pytest.raises(UserError, match="there are no images"):
        model.features([], "fc")


def test_the_program_writes_names_and_features(tmp_path, capsys, expected):
    """In the order of the arguments; a picture that cannot be read is left out and told."""
    torn, out = tmp_path / "torn.png", tmp_path / "features.npz"
    torn.write_bytes(b"")
    files = [SAMPLES[3], torn, *SAMPLES[:8]]
    with pytest.raises(SystemExit, match="2"):
        train.features.main(["--model=digits", "--layer=conv2", f"--out={out}", *map(str, files)])
    printed = capsys.readouterr()
    assert printed.out == f"features of shape (9, 8, 8, 48), written to {out}\n"
    assert f"error: {torn}: is not a picture" in printed.err
    found = np.load(out)
    assert found["files"].tolist() == [str(file) for file in files if file != torn]
    assert_close(found["features"], expected["conv2"][[3, *range(8)]])
    assert {path.name for path in tmp_path.iterdir()} == {"torn.png", "features.npz"}
    out.unlink()
    with pytest.raises(SystemExit, match="2"):
        train.features.main(["--model=digits", "--layer=conv2", f"--out={out}", str(torn)])
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out=x.npy", "--layer=fc"], r"--out=x.npy: must end in .npz"),
        (["--out=no/x.npz", "--layer=fc"], "the folder no does not exist"),
        (["--out=x.npz"], "required: --layer"),
        (["--layer=fc"], "required: --out"),
    ],
)
def test_what_the_program_refuses(arguments, message):
    with pytest.raises(UserError, match=message):
        train.features.main(["--model=digits", str(SAMPLES[0]), *arguments])


@pytest.mark.parametrize("network", ["googlenet", "resnet"])
def test_class_maps_average_to_the_logit(model, network, tmp_path_factory):
    """Apart from the classifier's bias."""
    if network == "resnet":
        model = googlenet_jax.load(tiny_run.make(tmp_path_factory))
    images = model.read(*SAMPLES)
    logits, maps = model.explain(images)
    assert_close(logits, model.logits(images))
    labels = np.argmax(logits, axis=1)
    bias = np.asarray(model.state.params["fc"]["bias"])[labels]
    assert_close(np.asarray(maps).mean(axis=(1, 2)) + bias, np.max(logits, axis=1))
