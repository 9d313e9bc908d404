"""Training in several processes, on JAX's distributed runtime."""

import contextlib
import dataclasses
import os
import re
import socket
import sys
import traceback
from collections.abc import Iterator
from typing import Self

from googlenet_jax.errors import UserError
from train import console

# JAX's coordinator ends the run if it has not heard from a process for this long.
HEARTBEAT_SECONDS = 30
NODES = "SLURM_STEP_NODELIST"
RANGES = r"\d+(?:[,-]\d+)*"
NODE_LIST = re.compile(rf"([\w.-]+?)(?:\[(\d+)(?:[,-]\d+)*\])?(?:,[\w.-]+(?:\[{RANGES}\])?)*")


@dataclasses.dataclass(frozen=True)
class Place:
    """This process's place in a run, from the command line; JAX has to find it if all are None.

    Attributes:
      coordinator: Address and port on which process 0 listens, such as "10.0.0.1:1234".
      num_processes: Processes of the run.
      process_id: Number of this process, from 0.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    @classmethod
    def parse(cls, argv: list[str]) -> tuple[Self, list[str]]:
        """Reads the cluster flags; returns the place and the other arguments.

        Raises:
          UserError: A flag is missing or its value is not allowed.
        """
        parser = console.Parser("train.main", add_help=False)
        parser.add_argument("--coordinator")
        parser.add_argument("--num_processes", type=int)
        parser.add_argument("--process_id", type=int)
        found, others = parser.parse_known_args(argv)
        missing = [f"--{name}" for name, value in vars(found).items() if value is None]
        if len(missing) == 3:
            return cls(), others
        if missing:
            raise UserError(f"{' and '.join(missing)}: missing; give all three cluster flags")
        host, _, port = found.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port[:6]) < 2**16:
            raise UserError(f"--coordinator={found.coordinator}: must be HOST:PORT")
        if not 0 <= found.process_id < found.num_processes:
            raise UserError(
                f"--process_id={found.process_id}: must be at least 0 and less than "
                f"--num_processes={found.num_processes}"
            )
        return cls(**vars(found)), others


def _check_slurm() -> None:
    """Checks that the first node in SLURM's node list, which JAX will connect to, has an address.

    JAX would wait minutes for an unknown host. On other clusters, such as Kubernetes, that is
    right, because a host may get its address later.

    Raises:
      UserError: The list is malformed, or the host is unknown.
    """
    nodes = os.environ.get(NODES, "")
    if "SLURM_JOB_ID" not in os.environ or not nodes:
        return
    where = f"{NODES}={nodes}"
    found = NODE_LIST.fullmatch(nodes)
    if not found:
        raise UserError(f"{where}: not a list of nodes; unset SLURM_JOB_ID to run without SLURM")
    host = found[1] + (found[2] or "")
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        raise UserError(f"{where}: no such host {host!r}: {error}") from error


@contextlib.contextmanager
def joined(place: Place) -> Iterator[None]:
    """Connects to the other processes of the run, if there are any.

    Without the cluster flags, JAX looks for Cloud TPU, SLURM, Open MPI or Kubernetes. Only process
    0 prints to stdout. A process that fails exits at once, without JAX's shutdown, which would wait
    for the others; they notice the failure and exit too.

    Raises:
      UserError: The other processes cannot be reached.
    """
    import jax

    if not place.coordinator:
        _check_slurm()
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.num_processes,
            place.process_id,
            cluster_detection_method="deactivate" if place.coordinator else None,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
        is_alone = False
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"cannot connect to the other processes of the run; is each one running? {error}"
        ) from error
    except (ValueError, RuntimeError):  # no cluster was found, or JAX is already in use
        if place.coordinator:
            raise
        is_alone = True
    if is_alone:
        yield
        return
    try:
        with contextlib.ExitStack() as stack:
            if jax.process_index() > 0:
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            yield
    except SystemExit:  # all processes exit in the same way
        raise
    except BaseException as error:
        status = console.report(error)
        if isinstance(error, jax.errors.JaxRuntimeError):
            console.complain(
                f"process {jax.process_index()} of {jax.process_count()} has failed, most likely "
                "because another process has ended; run the same command again to resume from the "
                f"newest checkpoint: {str(error).splitlines()[0]}"
            )
        elif status is None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1 if status is None else status)
