"""Many processes that train together, on JAX's own distributed runtime."""

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

# A process that JAX's coordinator has not heard of for so long counts as lost, and the run ends.
HEARTBEAT_SECONDS = 30
NODES = "SLURM_STEP_NODELIST"
RANGES = r"\d+(?:[,-]\d+)*"
NODE_LIST = re.compile(rf"([\w.-]+?)(?:\[(\d+)(?:[,-]\d+)*\])?(?:,[\w.-]+(?:\[{RANGES}\])?)*")


@dataclasses.dataclass(frozen=True)
class Place:
    """This process's place in a run, as the command line has it; all None: JAX is to find it.

    Attributes:
      coordinator: address and port on which process 0 is heard, such as "10.0.0.1:1234".
      num_processes: of the run.
      process_id: of this one, from 0.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    @classmethod
    def parse(cls, argv: list[str]) -> tuple[Self, list[str]]:
        """The place that flags name, and the other arguments.

        Raises:
          UserError: a flag is missing or has no fitting value.
        """
        parser = console.Parser("train.main", add_help=False, allow_abbrev=False)
        parser.add_argument("--coordinator")
        parser.add_argument("--num_processes", type=int)
        parser.add_argument("--process_id", type=int)
        known, others = parser.parse_known_args(argv)
        found = cls(**vars(known))
        missing = [f"--{name}" for name, value in vars(found).items() if value is None]
        if 0 < len(missing) < 3:
            raise UserError(f"{' and '.join(missing)}: missing beside the other cluster flags")
        if not missing:
            assert found.coordinator is not None
            assert found.num_processes is not None
            assert found.process_id is not None
            host, _, port = found.coordinator.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port[:6]) < 2**16:
                raise UserError(f"--coordinator={found.coordinator}: must be HOST:PORT")
            if not 0 <= found.process_id < found.num_processes:
                raise UserError(
                    f"--process_id={found.process_id}: must be from 0 to below --num_processes="
                    f"{found.num_processes}"
                )
        return found, others


def _check_slurm() -> None:
    """Checks what JAX takes from SLURM's variables, the first of the nodes.

    JAX would wait minutes for a node that nobody knows. Elsewhere, as in Kubernetes, that is right:
    there a name may become known later.

    Raises:
      UserError: their list is none, or nobody knows the node.
    """
    nodes = os.environ.get(NODES, "")
    if "SLURM_JOB_ID" not in os.environ or not nodes:
        return
    where = f"{NODES}={nodes}"
    found = NODE_LIST.fullmatch(nodes)
    if not found:
        raise UserError(f"{where}: is no list of nodes; unset SLURM_JOB_ID for a run without SLURM")
    host = found[1] + (found[2] or "")
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        raise UserError(f"{where}: no such host {host!r}: {error}") from error


@contextlib.contextmanager
def joined(place: Place) -> Iterator[None]:
    """Joins the run's other processes, if there are any, and ends with them.

    Where the command line names no place, JAX looks for a cluster: Cloud TPU, SLURM, Open MPI,
    Kubernetes. Only the first process prints to stdout. A process that fails ends at once, without
    JAX's goodbye, which would wait for the others: they notice and end too.

    Raises:
      UserError: the others cannot be reached.
    """
    import jax

    if not place.coordinator:
        _check_slurm()
    is_alone = False
    try:
        jax.distributed.initialize(
            place.coordinator,
            place.num_processes,
            place.process_id,
            cluster_detection_method="deactivate" if place.coordinator else None,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"the processes of the run do not find each other: {error}") from error
    except (ValueError, RuntimeError):  # no cluster was found, or JAX is at work here already
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
    except SystemExit:  # the same in all processes
        raise
    except BaseException as error:
        status = console.report(error)
        if isinstance(error, jax.errors.JaxRuntimeError):
            console.complain(
                f"process {jax.process_index()} of {jax.process_count()} has failed, most likely "
                "because another one has ended; the same command goes on from the newest "
                f"checkpoint: {str(error).splitlines()[0]}"
            )
        elif status is None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1 if status is None else status)
