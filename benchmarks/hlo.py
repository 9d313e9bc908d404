"""Reads a compiled program's text: its kernels, the bytes that they move, XLA's estimates.

A program consists of computations, which are lists of instructions. The entry computation runs once
per call, the body of the loop once per step. A kernel is an instruction that does work, unlike one
that only names, groups or reinterprets values. Its bytes are those of its results and of what it
reads; if a fusion slices an operand, only the slice counts.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator

NO_KERNELS = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
WIDTHS = {"pred": 1, "bf16": 2, "f8e4m3fn": 1, "f8e5m2": 1} | {
    f"{kind}{bits}": bits // 8 for kind in "fsu" for bits in (8, 16, 32, 64)
}
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{\s*$")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: Unique in the program.
      shape: Shape of the result, as text.
      opcode: The operation.
      operands: Names of the operands.
      rest: The attributes, as text.
      is_root: Whether its result is that of the computation.
    """

    name: str
    shape: str
    opcode: str
    operands: list[str]
    rest: str
    is_root: bool

    @property
    def bytes(self) -> int:
        """Bytes of the result."""
        return sum(n * WIDTHS.get(kind, 0) for kind, n in _arrays(self.shape))

    @property
    def elements(self) -> int:
        """Number of elements of the result."""
        return sum(n for _, n in _arrays(self.shape))

    def attribute(self, pattern: str) -> str | None:
        """The first group of a regular expression found in the attributes, or None."""
        found = re.search(pattern, self.rest)
        return found and found[1]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """An instruction that does work.

    Attributes:
      name: Unique in the program.
      kind: The opcode, or what it calls: "fusion:loop_add_fusion", "custom-call:__cudnn$conv".
      shape: Shape of the result, as text.
      bytes: Bytes that it reads and writes.
      cycles: XLA's estimate; 0 if there is none.
      layer: The model's layer, followed by "backward" in a gradient; "" outside of all layers.
    """

    name: str
    kind: str
    shape: str
    bytes: int
    cycles: int
    layer: str


class Program:
    """A compiled program, from its text.

    Attributes:
      entry: Kernels outside of loops; of a conditional, only those of its largest branch.
      loop: Kernels of one iteration of the largest loop; empty without a loop.
    """

    def __init__(self, text: str):
        self._computations = _parse(text)
        self._reads: dict[str, dict[int, float]] = {}
        found = re.search(r"^ENTRY %?([\w.\-]+)", text, re.MULTILINE)
        assert found, "no program"
        bodies = re.findall(r" while\(.*body=%?([\w.\-]+)", text)
        body = max(bodies, key=lambda name: len(self._computations[name]), default=None)
        self.entry = list(self._kernels(found[1]))
        self.loop = list(self._kernels(body)) if body else []

    def _kernels(self, computation: str) -> Iterator[Kernel]:
        instructions = {each.name: each for each in self._computations[computation]}
        for each in instructions.values():
            if each.opcode in NO_KERNELS:
                continue
            if each.opcode == "conditional":  # count its largest branch
                branches = re.findall(r"%([\w.\-]+)", each.rest.partition(", metadata=")[0])
                found = [list(self._kernels(name)) for name in branches]
                yield from max(found, key=len)
                continue
            called = each.attribute(r"calls=%?([\w.\-]+)")
            kind = each.opcode
            if kind == "fusion":
                kind += ":" + re.sub(r"[.\d]+$", "", each.name)
            elif kind == "custom-call":
                kind += ":" + (each.attribute(r'custom_call_target="([^"]+)"') or "")
            reads = self._read(called) if called else {}
            moved = each.bytes + sum(
                reads.get(i, 0) if called else instructions[name].bytes
                for i, name in enumerate(each.operands)
                if name in instructions
            )
            cycles = int(each.attribute(r'"estimated_cycles":"(\d+)"') or 0)
            layer = layer_of(each.attribute(r'op_name="([^"]+)"') or "")
            yield Kernel(each.name, kind, each.shape, round(moved), cycles, layer)

    def _read(self, computation: str) -> dict[int, float]:
        """The bytes that a fused computation reads of each of its parameters, by their number.

        Works backwards from the result, counting the elements needed of each operand.
        """
        if computation in self._reads:
            return self._reads[computation]
        instructions = {each.name: each for each in self._computations[computation]}
        needed: Counter[str] = Counter(
            {each.name: each.elements for each in instructions.values() if each.is_root}
        )
        reads = {}
        for each in reversed(instructions.values()):
            wanted = min(needed[each.name], each.elements)
            if each.opcode == "parameter":
                reads[int(each.operands[0])] = wanted * each.bytes / max(1, each.elements)
                continue
            for i, name in enumerate(each.operands):
                if name not in instructions:
                    continue
                size = instructions[name].elements
                if each.opcode in ("slice", "dynamic-slice", "gather"):
                    share = wanted if i == 0 else size
                elif each.opcode in ("concatenate", "reduce"):
                    share = size * wanted / max(1, each.elements)
                elif each.opcode == "tuple":
                    share = size
                else:
                    share = min(size, wanted)
                needed[name] += math.ceil(share)
        self._reads[computation] = reads
        return reads


def layer_of(op_name: str) -> str:
    """The model's layer in an operation's name, such as "inception3a/conv3x3"; "" if none."""
    scopes = re.findall(r"[\w.]+", op_name.replace("jit(", "(").replace("while/body", ""))
    named = [s for s in scopes if re.fullmatch(LAYERS, s)]
    layer = "/".join(dict.fromkeys(named))
    return f"{layer} backward" if layer and "transpose(" in op_name else layer


LAYERS = (
    r"conv1|conv2|conv2_reduce|maxpool\d|inception\d\w|aux\d|fc|bn|block\d_\d+"
    r"|reduce|conv3x3|conv5x5\w*|pool|pool_proj"
)


def _arrays(shape: str) -> list[tuple[str, int]]:
    return [
        (kind, math.prod(int(n) for n in sizes.split(",") if n))
        for kind, sizes in _SHAPE.findall(shape)
        if kind in WIDTHS
    ]


def _parse(text: str) -> dict[str, list[Instruction]]:
    computations: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for line in text.splitlines():
        if not line.startswith(" "):
            if found := _COMPUTATION.match(line):
                current = computations.setdefault(found[2], [])
        elif found := _INSTRUCTION.match(line):
            current.append(_instruction(found[2], found[3], bool(found[1])))
    return computations


def _instruction(name: str, text: str, is_root: bool) -> Instruction:
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    shape, text = text[:end], text[end + 1 :]
    start = text.index("(")
    end = _closing(text, start)
    arguments = text[start + 1 : end]
    opcode = text[:start]
    operands = [arguments] if opcode == "parameter" else re.findall(r"%([\w.\-]+)", arguments)
    return Instruction(name, shape, opcode, operands, text[end + 1 :], is_root)


def _closing(text: str, start: int) -> int:
    """The index of the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"unclosed parenthesis: {text[:80]}")
