"""Mutations of inputs: of their bytes, or of their structure.

Each mutation takes a random generator and a file's content, and returns the new content.
"""

import copy
import gzip
import io
import json
import pickletools
import random
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

Mutation = Callable[[random.Random, bytes], bytes]

CALLED: list[bool] = []


def call_me() -> None:
    """The hostile pickles below call this if a reader lets them."""
    CALLED.append(True)


NUMBERS = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
]
FRAGMENTS = [
    b"\x00" * 512,
    b"\xff" * 64,
    b"\x1b[2J\x1b]0;x\x07",  # to a terminal: clear the screen, change the title
    b"../../../etc/passwd\x00",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
]


def damage(rng: random.Random, content: bytes) -> bytes:
    """Makes one, two or four changes of bytes at random places."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, size = rng.randrange(len(content) + 1), rng.choice([1, 1, 2, 4, 8, 64])
        new = rng.choice(
            [
                rng.randbytes(size),
                bytes(size),
                b"\xff" * size,
                number(rng),
                rng.choice(FRAGMENTS),
                content[(other := rng.randrange(len(content) + 1)) : other + size],
            ]
        )
        match rng.randrange(6):
            case 0 if at < len(content):
                flipped = bytes([content[at] ^ 1 << rng.randrange(8)])
                content = content[:at] + flipped + content[at + 1 :]
            case 1:
                content = content[:at] + new + content[at:]
            case 2:
                content = content[:at] + content[at + size :]
            case 3 if rng.random() < 0.3:
                content = content[:at]
            case _:
                content = content[:at] + new + content[at + len(new) :]
    return content


def number(rng: random.Random) -> bytes:
    """Returns a boundary value in a random width and byte order."""
    value, width = rng.choice(NUMBERS), rng.choice([1, 2, 4, 8])
    return (value % 256**width).to_bytes(width, rng.choice(["little", "big"]))


# JSON


JUNK: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308, 1e-320),
    *(
        float("nan"),
        float("inf"),
        "",
        "0",
        "x" * 3000,
        "../../x",
        "\x1b[2J\n\u202e",
        "\ud800",
        "\0",
    ),
    *(
        [],
        {},
        [[]],
        [None] * 50,
        {"": 0},
        {"a": {"a": {"a": 1}}},
        [1, 2, 3],
        "float32",
        "nan",
        "fuzz_evil.X",
    ),
]
TEXTS = [
    *("1e999", "-1e999", "9" * 5000, "1." + "0" * 5000 + "1", "0x10", "NaN", "-Infinity", "'x'"),
    *("[" * 20000, '{"a":' * 20000, "[" * 500 + "]" * 500, "\\u0000", '"\\ud800"', "\ufeff", ""),
    *("/* */", "undefined", '"\n"', "00", "-", "1_000", "\u00a0", '{"a": 1, "a": 2}'),
]


def change_value(rng: random.Random, value: Any) -> Any:
    """Replaces, removes, wraps, renames, copies or changes one node of a JSON value."""
    places = list(_places(value))
    if not places:
        return _junk(rng)
    holder, key = rng.choice(places)
    match rng.randrange(8):
        case 0 | 1 | 2:
            holder[key] = _junk(rng)
        case 3:
            del holder[key]
        case 4:
            holder[key] = rng.choice([[holder[key]], {"value": holder[key]}, str(holder[key])])
        case 5 if isinstance(holder, dict):
            new = rng.choice(["", key.upper(), key + " ", "__class__", "x" * 300, "\x1b[2J"])
            holder[new] = holder.pop(key)
        case 6:
            other, other_key = rng.choice(places)
            other[other_key] = json.loads(json.dumps(holder[key]))
        case _ if type(holder[key]) in (int, float):
            change = rng.choice([lambda x: -x, lambda x: x + 1, lambda x: x * 2**40, float, str])
            holder[key] = change(holder[key])
        case _ if isinstance(holder[key], str):
            text = holder[key]
            at = rng.randrange(len(text) + 1)
            holder[key] = text[:at] + rng.choice(["", "\0", "\n", "é", "/", "9"]) + text[at + 1 :]
        case _:
            holder[key] = _junk(rng)
    return value


def _junk(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(JUNK))  # the next change may be one of it


def _places(value: Any) -> Any:
    """Yields (holder, key) for each node below a JSON value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def change_json(rng: random.Random, content: bytes) -> bytes:
    """Changes values of JSON, or its text. For lines of JSON, changes one line."""
    lines = content.splitlines()
    if len(lines) > 1 and lines[0].endswith(b"}"):  # metrics.jsonl
        at = rng.randrange(len(lines))
        lines[at] = change_json(rng, lines[at])
        if rng.random() < 0.1:
            rng.shuffle(lines)
        return b"\n".join(lines) + b"\n"
    if rng.random() < 0.15:
        return damage(rng, content)
    value = json.loads(content)
    if rng.random() < 0.7:
        for _ in range(rng.choice([1, 1, 1, 3])):
            if not isinstance(value, dict | list):
                break
            value = change_value(rng, value)
        # json.dumps escapes lone surrogates, so that they can be encoded.
        return json.dumps(value, indent=rng.choice([None, 2])).encode()
    return change_text(rng, json.dumps(value)).encode("utf-8", "surrogatepass")


def change_module(rng: random.Random, content: bytes) -> bytes:
    """Replaces one class name in JSON by fuzz_evil.X, which a reader must not import."""
    names = [at.span(1) for at in re.finditer(rb': *"([a-z_]+[.][a-zA-Z_.]+)"', content)]
    if not names:
        return change_json(rng, content)
    start, end = rng.choice(names)
    return content[:start] + b"fuzz_evil.X" + content[end:]


def change_text(rng: random.Random, text: str) -> str:
    """Inserts what no serializer writes: duplicate keys, huge numbers, endless brackets."""
    marks = [at for at, c in enumerate(text) if c in "{}[],:"] or [0]
    at = rng.choice(marks)
    if rng.random() < 0.4 and (keys := [part for part in text.split('"')[1::2] if part]):
        begin = text.find("{") + 1
        return f'{text[:begin]}"{rng.choice(keys)}": {json.dumps(rng.choice(JUNK))}, {text[begin:]}'
    end = min((other for other in marks if other > at), default=len(text))
    return text[: at + 1] + rng.choice(TEXTS) + text[end:]


# Pickles


# Each leaves the stack as it was, so that the rest of the pickle stays valid.
HARMLESS = [
    b"K\x01q\x7f" + b"h\x7f\x86q\x7f" * 40 + b"0",  # shared pairs: 2^40 leaves to print or hash
    b"}K\x01q\x7f" + b"h\x7f\x86q\x7f" * 40 + b"K\x01s0",  # the same as a key
    b"K\x01" + b"\x85" * 3000 + b"0",  # nested deeply
    b"]q\x7fh\x7fa0",  # a list in itself
    b"}q\x7fU\x01ah\x7fs0",  # a dict in itself
]
HOSTILE = [
    b"ctests.fuzz.mutate\ncall_me\n)R0",  # protocol 2: a global, an empty tuple, a call
    b"(itests.fuzz.mutate\ncall_me\n0",  # protocol 0: an instance
    b"\x8c\x11tests.fuzz.mutate\x8c\x07call_me\x93)R0",  # protocol 4
    b"cbuiltins\neval\n(U\x0f__import__('os')tR0",
    b"cnumpy\nndarray\n)Rb",
    b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R0",  # 2 GB of zeros
    b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR0",
    b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",  # 2^63 - 1 bytes follow
    b"r\xff\xff\xff\xff",  # to place 2^32 of the memo
    b"\x96\xff\xff\xff\xff\xff\x00\x00\x00",  # a byte array of a terabyte
    b"(" * 2000,
    b"." * 3,
]
PUSHES = [
    *(b"N", b"\x88", b")", b"]", b"}", b"K\x00", b"J\xff\xff\xff\xff", b"M\xff\xff", b"(", b"0"),
    *(
        b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
        b"G\x7f\xf8" + bytes(6),
        b"U\x00",
        b"X\x01\0\0\0a",
        b"2",
    ),
    *(b"\x85", b"\x86", b"\x87", b"t", b"a", b"e", b"s", b"u", b"b", b"R", b"h\x01", b"q\x01"),
]


def change_pickle(rng: random.Random, content: bytes) -> bytes:
    """Removes, inserts, swaps or changes opcodes; a file may hold several pickles."""
    if rng.random() < 0.3:
        return damage(rng, content)
    pieces = opcodes(content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, other = rng.randrange(len(pieces)), rng.randrange(len(pieces))
        piece = pieces[at]
        match rng.randrange(7):
            case 0:
                del pieces[at]
            case 1:
                pieces.insert(at, rng.choice(HOSTILE if rng.random() < 0.5 else HARMLESS))
            case 2:
                pieces.insert(at, rng.choice(PUSHES))
            case 3:
                pieces[at], pieces[other] = pieces[other], piece
            case 4:
                pieces[at] = rng.choice(PUSHES)
            case 5 if len(piece) > 1:  # the argument alone
                pieces[at] = piece[:1] + damage(rng, piece[1:])
            case _:
                pieces.insert(at, pieces[other])
        if not pieces:
            break
    return b"".join(pieces)


def opcodes(content: bytes) -> list[bytes]:
    """Splits pickles into opcodes with their arguments; any trailing bytes join the last one."""
    file, starts = io.BytesIO(content), []
    try:
        while file.tell() < len(content):
            starts += [
                position for _, _, position in pickletools.genops(file) if position is not None
            ]
    except (ValueError, UnicodeDecodeError):  # raw array bytes follow the pickles
        pass
    ends = [*starts[1:], len(content)]
    return [content[start:end] for start, end in zip(starts, ends, strict=True)]


# Archives


def inside_gzip(mutation: Mutation) -> Mutation:
    """Changes the unpacked content; gzip's checksum stays valid."""

    def change(rng: random.Random, content: bytes) -> bytes:
        return gzip.compress(mutation(rng, gzip.decompress(content)), 1, mtime=0)

    return change


def inside_tar(mutation: Mutation) -> Mutation:
    """Changes one member of a tar archive; sizes and checksums stay valid."""

    def change(rng: random.Random, content: bytes) -> bytes:
        file = io.BytesIO()
        with (
            tarfile.open(fileobj=io.BytesIO(content)) as old,
            tarfile.open(fileobj=file, mode="w") as new,
        ):
            members = [member for member in old if member.isfile()]
            chosen = rng.choice(members)
            for member in members:
                body = old.extractfile(member).read()  # type: ignore[union-attr]
                if member is chosen:
                    body = mutation(rng, body)
                    if rng.random() < 0.1:
                        member.type = rng.choice([tarfile.SYMTYPE, tarfile.FIFOTYPE, b"x", b"S"])
                    if rng.random() < 0.1:
                        member.name = rng.choice(
                            ["/etc/passwd", "../../x", member.name + "\x1b[2J"]
                        )
                member.size = len(body)
                new.addfile(member, io.BytesIO(body))
        return file.getvalue()

    return change


def inside_zip(mutations: dict[str, Mutation]) -> Mutation:
    """Changes one record of a zip archive, chosen by the end of its name; checksums stay valid."""

    def change(rng: random.Random, content: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
            names = old.namelist()
            ending = rng.choice(list(mutations))
            chosen = rng.choice([name for name in names if name.endswith(ending)] or names)
            packed = chosen if rng.random() < 0.05 else ""
            for name in names:
                body = old.read(name)
                if name == chosen:
                    body = mutations[ending](rng, body)
                    if rng.random() < 0.05:
                        continue
                    if rng.random() < 0.05:
                        name = name + "x"
                kind = zipfile.ZIP_DEFLATED if name == packed else zipfile.ZIP_STORED
                new.writestr(zipfile.ZipInfo(name), body, kind)
        return file.getvalue()

    return change


def header(mutation: Mutation) -> Mutation:
    """Changes the JSON header of a safetensors file; its length field stays valid."""

    def change(rng: random.Random, content: bytes) -> bytes:
        (size,) = struct.unpack("<Q", content[:8])
        new = mutation(rng, content[8 : 8 + size])
        return struct.pack("<Q", len(new)) + new + content[8 + size :]

    return change


def change_png(rng: random.Random, content: bytes) -> bytes:
    """Changes one chunk of a PNG; checksums stay valid."""
    if not content.startswith(b"\x89PNG"):
        return damage(rng, content)
    chunks, at = [], 8
    while at < len(content):
        (size,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    at = rng.randrange(len(chunks))
    name, body = chunks[at]
    if name == b"IHDR" and rng.random() < 0.5:
        sides = [1, 2, 16, 5000, 13000, 40000, 2**31 - 1]
        body = struct.pack(">II", rng.choice(sides), rng.choice(sides)) + body[8:]
    elif name == b"IDAT" and rng.random() < 0.5:
        body = zlib.compress(damage(rng, zlib.decompress(body)))
    elif rng.random() < 0.2:
        chunks.append((name, body))
    else:
        body = damage(rng, body)
    chunks[at] = (name, body)
    return content[:8] + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


# Programs


WORDS = [
    *("None", "True", "-1", "0", "1.5", "10**30", "float('nan')", "'x'", "[]", "{}", "object()"),
    *("lambda: 0", "b''", "Config", "...", "1j", "'\\x1b[2J'", "'\\ud800'", "'x' * 10**6", "1/0"),
]


def change_python(rng: random.Random, content: bytes) -> bytes:
    """Changes values, names and lines of a config file; it is run, so nothing harmful is added."""
    if rng.random() < 0.3:
        return damage(rng, content)
    lines = content.decode().splitlines()
    for _ in range(rng.choice([1, 1, 2])):
        at = rng.randrange(len(lines))
        left, equals, _ = lines[at].partition(" = ")
        match rng.randrange(6):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, rng.choice(lines))
            case 2:
                indent = " " * rng.choice([0, 4])
                lines.insert(
                    at,
                    indent
                    + rng.choice(
                        [
                            f"return {rng.choice(WORDS)}",
                            "raise KeyError",
                            "raise SystemExit",
                            "raise SystemExit(3)",
                            "raise BaseException('x')",
                            "raise UnicodeDecodeError('a', b'', 0, 1, 'x')",
                            "import no.such",
                            "del Config",
                            "get_config = 3",
                            "global x",
                            "yield",
                            "(" * 90,
                            "get_config()",
                            "raise Exception('a\\nb\\x1b[2J')",
                            "x = \ud800",
                        ]
                    ),
                )
            case 3 if equals:
                word = rng.choice(WORDS)
                lines[at] = f"{left} = {word}"
            case 4 if equals:
                lines[at] = f"{left}{rng.choice(['x', '.x', '[0]', '()'])} = {rng.choice(WORDS)}"
            case _:
                lines[at] = " " * rng.randrange(3) + lines[at]
        if not lines:
            break
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def change_arguments(rng: random.Random, content: bytes) -> bytes:
    """Changes the arguments of a command line, stored as JSON."""
    arguments = json.loads(content)
    for _ in range(rng.choice([1, 1, 2, 3])):
        at = rng.randrange(len(arguments) + 1)
        name = rng.choice([*arguments, "--config", "--workdir=x", "--config.seed=1"]).partition(
            "="
        )[0]
        value = rng.choice(
            [
                *("", "0", "-1", "1e3", "1e999", "nan", "True", "none", "None", "''", "[1]", "{}"),
                *(
                    "9" * 5000,
                    "0x10",
                    "1_0",
                    "\x1b[2J",
                    "\ud800",
                    "(",
                    "1j",
                    "--x",
                    "-",
                    "=",
                    "a=b",
                ),
                *("lambda: 0", "__import__('os')", "[" * 300, "1" * 400 + "e5", "\0", "gs://", "'"),
            ]
        )
        new = rng.choice(
            [
                f"{name}={value}",
                name
                + rng.choice(["", ".", ".x", "x", "[0]", "..", ".__class__", "\n"])
                + f"={value}",
                name,
                value,
                "-" + name,
                name.removeprefix("-") + f"={value}",
                rng.choice(
                    [
                        "--",
                        "-",
                        "--help",
                        "--config.=1",
                        "--flagfile=x",
                        "--noconfig",
                        "--undefok=x",
                        "--helpfull",
                        "--config.model",
                        "--config.model=x",
                        "--no--config.data.flip",
                    ]
                ),
            ]
        )
        if rng.random() < 0.3 and at < len(arguments):
            del arguments[at]
        else:
            arguments.insert(at, new)
    return json.dumps(arguments).encode()
