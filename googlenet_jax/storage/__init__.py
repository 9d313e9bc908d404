"""What outlives a process: working directories, checkpoints, exports and other programs' weights.

- workdir: a run's directory with its lock, its config.json and its metrics.jsonl.
- checkpoint: saves and restores with Orbax, and decides which checkpoints are kept.
- proof: verifies checkpoints.
- mirror: copies checkpoints to and from an object store.
- summary: a run's figures, as in summary.json, and which epoch is the best.
- export, card: writes and reads an export, with its model card.
- model: a trained network that can be called.
- loading: loads a `Model` from a run or an export, and weights to start a run from.
- pretrained: the networks that ship with the package.
- torch_weights: reads and writes the weights of PyTorch's GoogLeNets.
"""
