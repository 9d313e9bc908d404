"""Reads the pickled batches of CIFAR's Python archives without running code from the pickle.

A pickle can name any function and have it called. This reader accepts only opcodes of protocol 2
and never imports a name. It knows the few calls that a batch needs: those with which NumPy
rebuilds an array, and those with which Python 3 pickles bytes.
"""

import dataclasses
import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int, UInt8

MAX_LABEL = 2**31


class BatchError(ValueError):
    """The bytes are not a pickled batch."""


@dataclasses.dataclass
class _Name:
    """A global that the pickle names. It is never imported."""

    text: str


@dataclasses.dataclass
class _Object:
    """Stands for an array or a dtype that NumPy would have built."""

    name: str
    arguments: tuple[Any, ...]
    state: Any = None


_OPCODES = [
    getattr(pickle, name)[0]
    for names in (
        "PROTO STOP MARK POP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT",
        "BINSTRING SHORT_BINSTRING BINUNICODE SHORT_BINBYTES BINBYTES GLOBAL",
        "EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3",
        "APPEND APPENDS SETITEM SETITEMS BINGET LONG_BINGET BINPUT LONG_BINPUT",
    )
    for name in names.split()
]
_ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")


# The implementation in Python, because the one in C has no table of opcodes to restrict, and
# allocates memory for any memo index that a pickle asks for.
class _Reader(pickle._Unpickler):
    """Builds dicts, lists, tuples, numbers, strings and `_Object`s."""

    stack: list[Any]

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._may_encode = len(content)  # bounds the memory: each encoding copies a text

    def find_class(self, module: str, name: str) -> Any:
        return _Name(f"{module}.{name}")

    def reduce(self) -> None:
        arguments = self.stack.pop()
        name = self.stack[-1]
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise BatchError("it calls something other than a function")
        if name.text == "_codecs.encode":
            text, encoding = arguments
            if encoding not in ("latin1", b"latin1"):
                raise BatchError("it has text that is not encoded as latin1")
            self._may_encode -= len(text)
            if self._may_encode < 0:
                raise BatchError("it encodes more text than the file holds")
            self.stack[-1] = text.encode("latin1")
        elif name.text == "__builtin__.bytes" and not arguments:
            self.stack[-1] = b""
        elif name.text in (*_ARRAYS, "numpy.dtype"):
            self.stack[-1] = _Object(name.text, arguments)
        else:
            raise BatchError(f"it calls {name.text[:80]!r}, which no batch needs")

    def build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Object):
            raise BatchError("it sets the state of something other than an array")
        self.stack[-1].state = state

    def set_item(self) -> None:
        self._check_keys(self.stack[-2:-1])
        super().load_setitem()  # type: ignore[misc]  # missing in typeshed

    def set_items(self) -> None:
        self._check_keys(self.stack[::2])
        super().load_setitems()  # type: ignore[misc]

    def _check_keys(self, keys: list[Any]) -> None:
        # A small pickle can nest tuples so that hashing or printing one takes forever.
        if not all(isinstance(key, str | bytes) for key in keys):
            raise BatchError("it has keys that are not strings")

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **{code: pickle._Unpickler.dispatch[code] for code in _OPCODES},
        pickle.REDUCE[0]: reduce,
        pickle.BUILD[0]: build,
        pickle.SETITEM[0]: set_item,
        pickle.SETITEMS[0]: set_items,
    }


def read(
    content: bytes, label_key: bytes, pixels: int
) -> tuple[UInt8[np.ndarray, "examples pixels"], Int[np.ndarray, " examples"]]:
    """Returns the pixels, one row per image, and the labels.

    Args:
      content: The content of the file.
      label_key: "labels" in CIFAR-10, "fine_labels" in CIFAR-100.
      pixels: Bytes per image.

    Raises:
      BatchError: It is not a batch, or calls a function that no batch needs.
    """
    try:
        batch = _Reader(content).load()
        batch = {k.encode() if isinstance(k, str) else k: v for k, v in batch.items()}
        labels, array = batch[label_key], batch[b"data"]
        version, shape, dtype, by_column, raw = array.state
        is_bytes = dtype.name == "numpy.dtype" and dtype.arguments[0] in ("u1", b"u1")
        is_sound = array.name in _ARRAYS and is_bytes and not by_column and version == 1
    except BatchError:
        raise
    except Exception as error:  # an opcode on the wrong stack raises almost anything
        raise BatchError(f"{type(error).__name__}: {error}"[:100]) from error
    if not is_sound or not isinstance(raw, bytes):
        raise BatchError("its pixels are not an array of uint8")
    if not isinstance(labels, list) or shape != (len(labels), pixels):
        raise BatchError(f"its pixels do not have the shape (number of labels, {pixels})")
    if len(raw) != len(labels) * pixels or not labels:
        raise BatchError(f"it has {len(raw)} bytes of pixels for {len(labels)} labels")
    if not all(type(label) is int and 0 <= label < MAX_LABEL for label in labels):
        raise BatchError(f"its labels are not integers from 0 to {MAX_LABEL - 1}")
    return np.frombuffer(raw, np.uint8).reshape(-1, pixels), np.array(labels, np.int32)
