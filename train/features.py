"""Writes a layer's outputs: python -m train.features --model digits --layer fc --out x.npz DIR.

The file is NumPy's: `numpy.load(FILE)` has the names of the pictures under "files", and the
outputs in the same order under "features".
"""

import functools
import tempfile

from googlenet_jax import fileio
from googlenet_jax.errors import UserError
from train import allocator, console, pictures


def main(argv: list[str]) -> None:
    """Writes the file; exits with status 2 if a picture could not be read."""
    parser = pictures.Parser(
        "train.features", "Writes what a layer of a network makes of pictures, as a NumPy file."
    )
    layer_help = (
        "as python -m train.summarize prints it, without .conv and .bn: inception4e, "
        "inception4e.conv3x3; dropout is the vector that GoogLeNet's classifier gets"
    )
    parser.add_argument("--layer", required=True, help=layer_help)
    out_help = "file to write, .npz"
    parser.add_argument("--out", type=console.local_path, required=True, help=out_help)
    arguments = parser.parse(argv)
    if arguments.out.suffix != ".npz":
        raise UserError(f"--out={arguments.out}: must end in .npz")
    console.check_file(arguments.out)

    # Imported here so that a mistake on the command line is reported before JAX is loaded.
    import numpy as np

    model = pictures.load(arguments)
    activations = functools.partial(model.activations, layer=arguments.layer)
    results = pictures.Results(model, activations, pictures.find(arguments))
    names: list[str] = []
    try:
        # They may not fit in memory.
        with tempfile.TemporaryFile(dir=arguments.out.parent) as rows:
            for name, _, found in results:
                rows.write(found.tobytes())
                names.append(name)
            if names:
                rows.flush()
                features = np.memmap(rows, found.dtype, "r", shape=(len(names), *found.shape))
                with fileio.replacing(arguments.out) as file:
                    np.savez(file, files=np.array(names), features=features)
                console.say(f"features of shape {features.shape}, written to {arguments.out}")
    except OSError as error:
        raise UserError(f"--out={arguments.out}: cannot be written: {error}") from error
    results.end()


if __name__ == "__main__":
    allocator.restart_tuned()
    console.start(main)
