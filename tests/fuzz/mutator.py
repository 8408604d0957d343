"""Changed copies of files, drawn from a seed: of their bytes, their words, their JSON values, and of what they pack."""

import contextlib
import gzip
import io
import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

DEEP = 20_000  # levels of nesting: more than Python's stack, and than C's where it is used
WHOLE = [0, 1, -1, 2, *(2**bits - less for bits in (7, 8, 15, 16, 31, 32, 40, 63) for less in (0, 1))]
REAL = [math.nan, math.inf, -math.inf, 1e308, 5e-324, -0.0]
PICKLED = [b"(", b"]", b"}", b"0", b"2", b"t", b"u", b"e", b"R", b"b", b".", b"q\x00", b"h\x00", b"j\xff\xff\xff\x7f"]
PICKLED += [b"r\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 7 + b"\x7f", b"\x95" + b"\xff" * 7 + b"\x7f", b"\x82\x01", b"N"]
WORDS = [
    *(b"", b"0", b"1", b"-1", b"1.5", b"nan", b"inf", b"-inf", b"1e999", b"1_0", b"0x10", b"null", b"true", b"None"),
    *(b"9" * 20, b"9" * 5000, b"x" * 5000, b"\xc2\xb2", b"\xd9\xa3", b"\xe2\x80\xa8", b"\x1c", b"\x85", b"\x1b[2J"),
    *(b"\0", b"\xff", b"\xfe\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r\n", b"\r", b"\n\n", b"\t", b" ", b'"', b"'"),
    *(b",", b";", b"/", b"..", b"../../escaped", b"/escaped", b"#", b"%", b"<", b"</", b"&amp;", b"&#0;", b"<!--"),
    *(b'<!DOCTYPE a [<!ENTITY b "c">]>', b"[" * DEEP, b"(" * DEEP, b'{"a":' * DEEP, b"<a>" * DEEP + b"</a>" * DEEP),
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 3, 0.5, -0.0, 2**31, 2**63, 10**30, -(2**63), 10**400, 1e308, *REAL[:3]),
    *("", "0", "x", "nan", "\0", "\ud800", "\x1b[2J", "\u2028", "a\nb", "../../escaped", "/escaped", "y" * 5000),
    *([], {}, [[]], [None], [0], ["x"], {"": None}, {"x": 1}, {"name": "x"}, {"_schema_": "os:path"}),
]
Layer = Callable[[bytes, Sequence[bytes], Random], bytes]


def mutated(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """A changed copy of ``content``; the same for the same state of ``random``.

    Args:
        others: further files, of which pieces may be taken.
    """
    layers = [layer for recognised, layer in LAYERS if recognised(content)]
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        layer = random.choice((*layers, *layers, of_bytes))
        with contextlib.suppress(Unfit):
            content = layer(content, others, random)
    return content


class Unfit(Exception):
    """After an earlier change the content is no more what it was recognised as."""


# --- bytes -----------------------------------------------------------------------------------------------------------


def of_bytes(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """A few bytes flipped, cut, inserted, repeated, exchanged, or replaced by a number or by those of another file."""
    at, end = sorted((random.randint(0, len(content)), random.randint(0, len(content))))
    near = min(len(content), at + random.choice((1, 2, 4, 8, 40)))  # most fields of a format are short
    end = random.choice((near, near, end))
    before, inside, after = content[:at], content[at:end], content[end:]
    match random.randrange(9):
        case 0 if inside:
            return before + bytes([inside[0] ^ 1 << random.randrange(8)]) + content[at + 1 :]
        case 1:
            return before
        case 2:
            return before + after
        case 3:
            return before + random.randbytes(random.choice((1, 2, 4, 8, 40))) + content[at:]
        case 4:
            return before + inside * random.choice((2, 3, 100)) + after
        case 5:
            middle = len(inside) // 2
            return before + inside[middle:] + inside[:middle] + after
        case 6:
            other = random.choice(others or (content,))
            start = random.randint(0, len(other))
            return before + other[start : start + random.randint(0, 64)] + after
        case 7:
            return before + random.choice((*PICKLED, *WORDS[:-4])) + random.choice((content[at:], after))
        case _:
            number = packed_number(random)
            return before + number + content[at + len(number) :]


def packed_number(random: Random) -> bytes:
    """A number that programs forget, in 1 to 8 bytes of either order."""
    order = random.choice("<>")
    if random.random() < 0.2:
        return struct.pack(order + random.choice("fd"), random.choice((math.nan, math.inf, -math.inf, -0.0)))
    size = random.choice((1, 2, 4, 8))
    return (random.choice(WHOLE) % 2 ** (8 * size)).to_bytes(size, "little" if order == "<" else "big")


# --- text ------------------------------------------------------------------------------------------------------------


def is_text(content: bytes) -> bool:
    return not content[:512].translate(None, bytes(range(9, 14)) + bytes(range(32, 127)))


def of_words(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Words or lines left out, repeated, exchanged or replaced; other ends of lines, a byte order mark."""
    if random.random() < 0.1:
        encoded = content.decode("latin1").encode("utf-16")
        return random.choice((b"\xef\xbb\xbf" + content, content.replace(b"\n", b"\r\n"), encoded))
    pieces = re.findall(rb"\w+|[^\w]", content) if random.random() < 0.7 else content.splitlines(keepends=True)
    return b"".join(rearranged(pieces, random, lambda: random.choice(WORDS)))


def rearranged(pieces: list[Any], random: Random, new: Callable[[], Any]) -> list[Any]:
    """``pieces`` with one of them left out, repeated, exchanged with another one, replaced or preceded by a new one."""
    if not pieces:
        return [new()]
    one, other = random.randrange(len(pieces)), random.randrange(len(pieces))
    match random.randrange(5):
        case 0:
            del pieces[one]
        case 1:
            pieces.insert(other, pieces[one])
        case 2:
            pieces[one], pieces[other] = pieces[other], pieces[one]
        case 3:
            pieces[one] = new()
        case _:
            pieces.insert(one, new())
    return pieces


# --- JSON ------------------------------------------------------------------------------------------------------------


def is_json(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), dict | list)
    except (ValueError, RecursionError):
        return False


def of_values(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """A value anywhere inside replaced by one of another kind, left out, repeated or exchanged; or a key renamed."""
    try:
        root = [json.loads(content)]
    except (ValueError, RecursionError) as error:
        raise Unfit from error
    places: list[tuple[Any, Any]] = []
    found: list[Any] = [root]
    for inner in found:
        for key, value in list(inner.items() if isinstance(inner, dict) else enumerate(inner)):
            places.append((inner, key))
            found += [value] if isinstance(value, dict | list) else []
    (inner, key), (another, its) = random.choice(places), random.choice(places)
    match random.randrange(6):
        case 0 if inner is not root:
            del inner[key]
        case 1 if inner is not root and another is not root:  # never a value inside itself
            inner[key], another[its] = json.loads(json.dumps((another[its], inner[key])))
        case 2 if isinstance(inner, dict):
            inner[random.choice(("", "name", "\ud800", "z" * 2000))] = inner.pop(key)
        case 3 if isinstance(inner, list) and inner is not root:
            inner *= random.choice((0, 2))
        case _:
            inner[key] = random.choice(VALUES)
    return json.dumps(root[0]).encode() if root else b""


# --- files in files --------------------------------------------------------------------------------------------------


def of_zip(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """A member changed, renamed, left out or repeated, in an archive that is whole again."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as given:
            members = [(one.filename, given.read(one)) for one in given.infolist()]
    except Exception as error:
        raise Unfit from error
    if not members:
        raise Unfit
    at = random.randrange(len(members))
    name, inside = members[at]
    if random.random() < 0.85:
        members[at] = name, mutated(inside, [*others, *(other for _, other in members)], random)
    else:
        names = ("../escaped", "/escaped", "a/../../escaped", "..\\escaped", "x\0.npy", "x" * 300, "data.npy", name)
        members = rearranged(members, random, lambda: (random.choice(names), inside))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)), compresslevel=1) as new:
        for name, inside in members:
            new.writestr(zipfile.ZipInfo(name), inside)
    return made.getvalue()


def of_gzip(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """What is inside changed, and compressed again."""
    try:
        return gzip.compress(mutated(gzip.decompress(content), others, random), 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Unfit from error


def of_tar(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """A field of a header changed and its checksum corrected."""
    headers = [start for start in range(0, len(content), 512) if content[start + 257 : start + 262] == b"ustar"]
    if not headers:
        raise Unfit
    start = random.choice(headers)
    block = bytearray(content[start : start + 512].ljust(512, b"\0"))
    at, size = random.choice(((0, 100), (100, 8), (124, 12), (156, 1), (157, 100), (257, 8), (345, 155)))
    kinds = [bytes([kind]) for kind in b"01234567LKxgSVDMN"]
    texts = [b"../escaped", b"/escaped", b"a/../../escaped", b"x" * 100, b"\0", b"%o" % random.choice(WHOLE[:8])]
    texts += [b"\x80" + (random.choice(WHOLE) % 2**64).to_bytes(11, "big"), b"\xff" * 12, b"77777777777"]
    block[at : at + size] = (random.choice(kinds) if size == 1 else random.choice(texts))[:size].ljust(size, b"\0")
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block)
    return content[:start] + bytes(block) + content[start + 512 :]


def is_tar(content: bytes) -> bool:
    return content[257:262] == b"ustar"


def of_png(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """A chunk changed, left out, repeated or exchanged, with checksums that are right."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, at)
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    if not chunks:
        raise Unfit
    if random.random() < 0.7:
        one = random.randrange(len(chunks))
        kind, inside = chunks[one]
        with contextlib.suppress(zlib.error):
            if kind == b"IDAT" and random.random() < 0.5:
                inside = zlib.compress(of_bytes(zlib.decompress(inside), others, random), 1)
        chunks[one] = kind, of_bytes(inside, others, random)
    else:
        kinds = (b"PLTE", b"tRNS", b"iCCP", b"tEXt", b"zTXt", b"acTL", b"fcTL", b"fdAT", b"eXIf", b"IEND", b"IHDR")
        chunks = rearranged(chunks, random, lambda: (random.choice(kinds), random.randbytes(random.randrange(30))))
    made = [content[:8]]
    for kind, inside in chunks:
        made += [struct.pack(">I", len(inside)), kind, inside, struct.pack(">I", zlib.crc32(kind + inside))]
    return b"".join(made)


LAYERS: list[tuple[Callable[[bytes], bool], Layer]] = [
    (lambda content: content[:4] == b"PK\3\4", of_zip),
    (lambda content: content[:2] == b"\x1f\x8b", of_gzip),
    (lambda content: content[:4] == b"\x89PNG", of_png),
    (is_tar, of_tar),
    (lambda content: content[:1] in (b"{", b"[") and is_json(content), of_values),
    (is_text, of_words),
]
