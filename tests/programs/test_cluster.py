"""Mistakes in the cluster flags and in SLURM's variables are reported at once."""

import pytest

from googlenet_jax.errors import UserError
from train import cluster


@pytest.mark.parametrize("nodes", ["node[", "[1-2]", "a,,b", "node[1-2", "node[x]", ",", "a b"])
def test_a_malformed_list_of_nodes(monkeypatch, nodes):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv(cluster.NODES, nodes)
    with pytest.raises(UserError, match="not a list of nodes; unset SLURM_JOB_ID to run"):
        cluster._check_slurm()


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node", "node"),
        ("node-a[01-03,7],other", "node-a01"),
        ("n1,n2", "n1"),
        ("a.b[5]", "a.b5"),
        ("login12[3-4],x[1,2-9]", "login123"),
    ],
)
def test_the_first_node_is_looked_up(monkeypatch, nodes, first):
    """JAX does the same, but waits minutes for an answer."""
    asked = []
    monkeypatch.setattr(cluster.socket, "getaddrinfo", lambda host, port: asked.append(host))
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv(cluster.NODES, nodes)
    cluster._check_slurm()
    assert asked == [first]


def test_wrong_ports_and_unknown_hosts(monkeypatch):
    def unknown(host, port):
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(cluster.socket, "getaddrinfo", unknown)
    arguments = ["--num_processes=2", "--process_id=1"]
    for port in ("0", "99999", "9" * 5000):
        with pytest.raises(UserError, match="must be HOST:PORT"):
            cluster.Place.parse([f"--coordinator=host:{port}", *arguments])
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv(cluster.NODES, "gone[1-2]")
    with pytest.raises(UserError, match="no such host 'gone1'"):
        cluster._check_slurm()
