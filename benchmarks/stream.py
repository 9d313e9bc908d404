"""Measures how fast pictures are decoded and cropped, without training.

    python -m benchmarks.stream

The pictures are scikit-learn's two photographs, saved as JPEG of quality 92 with 500 pixels on the
longer side, as is usual in ImageNet; or those of a folder. Each is decoded, and a random crop
resized to 224x224. First in one thread without the pipeline, by CPU time: images/s per core. Then
through the whole pipeline, by wall time, in interleaved rounds with threads, one worker process and
two.
"""

import argparse
import contextlib
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from googlenet_jax import data
from googlenet_jax.config import DataConfig
from googlenet_jax.data import Stream

BATCH_SIZE = 64
WARM_UP, BATCHES = 6, 20  # per round; by the sixth batch every worker has started
SIDE, QUALITY = 500, 92
WAYS = {"threads": 0, "1 worker": 1, "2 workers": 2}


def photographs(folder: Path, copies: int) -> Path:
    """Fills a folder with scikit-learn's two photographs, each as a class; returns it."""
    from sklearn.datasets import load_sample_images

    for label, pixels in enumerate(load_sample_images().images):
        photograph = Image.fromarray(pixels)
        photograph.thumbnail((SIDE, SIDE))
        for split in ("train", "test"):
            place = folder / split / str(label)
            place.mkdir(parents=True)
            photograph.save(place / "0.jpg", quality=QUALITY)
            for copy in range(1, copies):
                (place / f"{copy}.jpg").hardlink_to(place / "0.jpg")
    return folder


def speed_of_a_core(stream: Stream, batches: int) -> float:
    """Images/s of CPU time, decoded one after the other in this thread."""
    seconds = time.process_time()
    for _ in range(batches):
        stream.samples(BATCH_SIZE, num_crops=1)
    # Each sample holds a centre crop besides the random one: two pictures.
    return 2 * batches * BATCH_SIZE / (time.process_time() - seconds)


def speed(stream: Stream) -> float:
    """Images/s of wall time, through the pipeline."""
    rows = np.arange(BATCH_SIZE)
    with contextlib.closing(stream.training_batches(BATCH_SIZE, rows, 0)) as batches:
        for _ in range(WARM_UP):
            next(batches)
        started = time.monotonic()
        for _ in range(BATCHES):
            next(batches)
        return BATCHES * BATCH_SIZE / (time.monotonic() - started)


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data-path", type=Path, help="folder with train and test folders")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--device-speed", type=float, default=10_200, help="images/s at which a device trains"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.data_path or photographs(Path(folder), copies=BATCH_SIZE)
        stream = data.load(DataConfig(name="folder", path=str(path)), seed=0)
        assert isinstance(stream, Stream)
        of_a_core = [speed_of_a_core(stream, 2) for _ in range(arguments.rounds)]
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(arguments.rounds):
            for way, workers in WAYS.items():
                found[way].append(speed(dataclasses.replace(stream, workers=workers)))
    print("| what | images/s, median (range) | times 1 worker |\n|---|---|---|")
    core = statistics.median(of_a_core)
    print(f"| one core, CPU time | {core:.0f} ({_range(of_a_core)}) | |")
    for way, speeds in found.items():
        ratios = [a / b for a, b in zip(speeds, found["1 worker"], strict=True)]
        print(
            f"| {way} | {statistics.median(speeds):.0f} ({_range(speeds)}) | "
            f"{statistics.median(ratios):.2f} |"
        )
    worker, device = statistics.median(found["1 worker"]), arguments.device_speed
    print(
        f"\nA device that trains at {device:,.0f} images/s needs {device:,.0f} / {worker:.0f} = "
        f"{device / worker:.0f} workers, one core each."
    )


def _range(values: list[float]) -> str:
    return f"{min(values):.0f}-{max(values):.0f}"


if __name__ == "__main__":
    main()
