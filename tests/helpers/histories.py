"""Made-up history entries, and a reader of TensorBoard scalars."""

import struct

from tensorboardX.proto import event_pb2


def entry(epoch, **more):
    return {
        "epoch": epoch,
        "step": 10 * epoch,
        "learning_rate": 0.1 / epoch,
        "seconds": 1.5,
        "train_loss": 2.0 / epoch,
        "train_accuracy": 1 - 0.5 / epoch,
        **more,
    }


def evaluated(epoch, accuracy, loss, split="test"):
    return entry(epoch, **{f"{split}_accuracy": accuracy, f"{split}_loss": loss})


def read_scalars(folder):
    """Returns (name, epoch, value) of every scalar, named as in metrics.jsonl.

    It is read without TensorBoard. A record is 8 bytes of payload length, 4 of checksum, the
    payload, and 4 of checksum.
    """
    found = []
    for path in folder.rglob("events.out.tfevents.*"):
        split = "" if path.parent == folder else f"{path.parent.name}_"
        content, start = path.read_bytes(), 0
        while start < len(content):
            (length,) = struct.unpack_from("<Q", content, start)
            event = event_pb2.Event.FromString(content[start + 12 : start + 12 + length])
            found += [(split + v.tag, event.step, v.simple_value) for v in event.summary.value]
            start += 12 + length + 4
        assert start == len(content)
    return found
