"""Says whether this machine is ready to train, and on what: python -m train.doctor."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from googlenet_jax import fileio
from googlenet_jax.version import __version__
from train import console

PACKAGE = "googlenet-jax"
PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")
MIN_FREE = 10**9  # bytes; a checkpoint of the whole network with its momentum takes 50 MB


def main(argv: list[str]) -> None:
    """Prints versions, devices, folders and extras; exits with status 1 if there is a problem."""
    parser = console.Parser(
        "train.doctor",
        description="Shows versions, devices, folders with free disk, and extras. Exits with "
        "status 1 if something is missing.",
    )
    parser.parse_args(argv)
    show("versions", ", ".join(versions()))
    try:
        problems = [f"missing: {each}" for need in needs(PACKAGE, "") for each in missing(need)]
    except metadata.PackageNotFoundError:
        problems = [f"{PACKAGE} is not installed: pip install --editable . in its clone"]
    if not problems:  # what follows needs JAX and TFDS
        show("devices", describe_devices())
        problems += filter(None, [console.missing_devices()])
        show("no GPU", why_no_gpu())
        problems += show_folders()
        show_extras()
    for problem in problems:
        console.say(f"problem: {problem}")
    if problems:
        sys.exit(1)
    console.say("ready to train")


def show(name: str, text: str) -> None:
    """Prints a line, unless there is nothing to say."""
    if text:
        console.say(f"{name:10} {text}")


def needs(package: str, extra: str) -> list[Requirement]:
    """What a package requires; with the name of an extra, what that requires in addition."""

    def holds(need: Requirement, extra: str) -> bool:
        return need.marker is None or need.marker.evaluate({"extra": extra})

    found = map(Requirement, metadata.requires(package) or ())
    return [each for each in found if holds(each, extra) and not (extra and holds(each, ""))]


def missing(requirement: Requirement) -> list[str]:
    """The packages that a requirement lacks; those of its extras too."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return [f"{requirement.name}{requirement.specifier}"]
    if not requirement.specifier.contains(version, prereleases=True):
        return [f"{requirement.name}{requirement.specifier}, not {version}"]
    inner = [each for extra in requirement.extras for each in needs(requirement.name, extra)]
    return [name for each in inner for name in missing(each)]


def versions() -> Iterator[str]:
    """Of this package, Python, the system and the packages that the figures depend on."""
    yield f"googlenet_jax {__version__}, Python {platform.python_version()}"
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", *PLUGINS):
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    yield platform.platform()


def describe_devices() -> str:
    """Number, kind and memory of JAX's devices; "" if it finds none."""
    import jax

    try:
        devices = jax.devices()
    except Exception:  # told by `console.missing_devices`
        return ""
    memory = (devices[0].memory_stats() or {}).get("bytes_limit", 0)
    if devices[0].platform == "cpu":
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores = f", {os.cpu_count()} CPU cores"
    return f"{len(devices)} x {devices[0].device_kind}, {memory / 1e9:.1f} GB of memory{cores}"


def why_no_gpu() -> str:
    """Why JAX sees no GPU; "" if it sees one, or a TPU."""
    import jax

    chosen = os.environ.get("JAX_PLATFORMS", "")
    try:
        if jax.default_backend() != "cpu":
            return ""
    except Exception:  # no device at all
        return ""
    if chosen:
        return f"JAX_PLATFORMS={chosen} allows none; unset it"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={hidden} hides them; unset it"
    if not shutil.which("nvidia-smi"):
        return "no NVIDIA driver was found (there is no nvidia-smi)"
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    found = " ".join((listed.stdout or listed.stderr).split())[:200]
    if listed.returncode or not found:
        return f"the NVIDIA driver finds none: nvidia-smi -L: {found}"
    if all(missing(Requirement(plugin)) for plugin in PLUGINS):
        return f"{found}: JAX has no CUDA plugin; pip install 'jax[cuda12]'"
    return (
        f"{found}: JAX has its CUDA plugin but cannot use it; python -c 'import jax; jax.devices()'"
    )


def show_folders() -> Iterator[str]:
    """Prints where runs, data and caches are, and the free disk; yields what is wrong there."""
    from googlenet_jax.data import tfds_source

    places = {"runs": Path("runs").absolute(), "data": tfds_source.data_dir()}
    try:
        places["cache"] = fileio.cache_folder()
        compiled = places["cache"] / "compiled"
        places["compiled"] = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or compiled)
    except OSError as error:
        show("cache", f"none: {error.strerror}")
    for name, place in places.items():
        nearest = next(path for path in (place, *place.parents) if path.is_dir())
        free = shutil.disk_usage(nearest).free
        there = "" if nearest == place else " (not there yet)"
        show(name, f"{place}{there}, {free / 1e9:.1f} GB free")
        if name == "runs" and not os.access(nearest, os.W_OK):
            yield f"{nearest}: cannot be written; choose another place with --workdir"
        if name == "runs" and free < MIN_FREE:
            yield f"{nearest}: {free / 1e6:.0f} MB free; the checkpoints of a run may need more"


def show_extras() -> None:
    """Prints which extras are installed, and what the others would bring."""
    extras = metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    absent = {
        extra: [name for need in needs(PACKAGE, extra) for name in missing(need)]
        for extra in extras
    }
    show("extras", ", ".join(extra for extra in extras if not absent[extra]) or "none")
    for extra, names in absent.items():
        show(f"  [{extra}]", f"would bring {', '.join(names)}" if names else "")


if __name__ == "__main__":
    console.start(main)
