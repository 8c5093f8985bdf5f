"""Damage to a file, drawn from a seed: bits, blocks, numbers, fields of its format."""

import io
import json
import pickletools
import random
import re
import zipfile
from collections.abc import Callable
from typing import Any

from hostile_files import ESCAPE, Files, directory_edited, member_edited

_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63)
_DIGITS = (b"0", b"-1", b"9" * 5000, b"1e400", b"1000000000000", b"NaN", b"1.5", b"[]")
_VALUES = (
    *(None, True, 0, -1, 1.5, 10**7, 10**12, 10**400, 1e400, "", "8", ESCAPE, [], {}),
    *([8], [[8]], [None], [10**12], {"a": 1}, "x" * 10**5, [8] * 10**4, "DownBlock2D"),
)


def mutated(form: str, files: Files, rng: random.Random) -> tuple[str, Files]:
    """(what was done, files) with one of the files damaged.

    The form is a key of `good_files`. What was done begins with "edit" where sums were
    set right: the result may be a whole file that says something else.
    """
    # JSON is small and read first; the rest of a folder is a format of its own.
    paths = [path for path in files.contents if path.endswith(".json")]
    path = rng.choice(paths or list(files.contents))
    data = files.contents[path]
    kinds = [*_BYTES.items(), *list(_FIELDS[form].items()) * 4]
    kind, change = rng.choice(kinds)
    return kind, files._replace(contents={**files.contents, path: change(data, rng)})


def _flip(data: bytes, rng: random.Random, count: int = 1) -> bytes:
    edited = bytearray(data)
    for _ in range(count):
        edited[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(edited)


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    """A place, and the end of a block there of any size."""
    start = rng.randrange(len(data))
    return start, min(len(data), start + 1 + int(2 ** rng.uniform(0, 12)))


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _delete(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.randbytes(end - start) + data[start:]


def _double(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:]


def _fill(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + rng.choice((b"\0", b"\xff")) * (end - start) + data[end:]


def _swap(data: bytes, rng: random.Random) -> bytes:
    a, b = sorted((_span(data, rng), _span(data, rng)))
    if a[1] > b[0]:
        return _fill(data, rng)
    return (
        data[: a[0]]
        + data[slice(*b)]
        + data[a[1] : b[0]]
        + data[slice(*a)]
        + data[b[1] :]
    )


def _number(data: bytes, rng: random.Random) -> bytes:
    """An edge of some width, where a number may be."""
    width = rng.choice((1, 2, 4, 8))
    value = (rng.choice(_EDGES) % 256**width).to_bytes(
        width, rng.choice(("little", "big"))
    )
    start = rng.randrange(len(data))
    return data[:start] + value + data[start + width :]


def _digits(data: bytes, rng: random.Random) -> bytes:
    """Another number in the text."""
    found = list(re.finditer(rb"\d+", data))
    if not found:
        return _flip(data, rng)
    match = rng.choice(found)
    return data[: match.start()] + rng.choice(_DIGITS) + data[match.end() :]


def _directory(data: bytes, rng: random.Random) -> bytes:
    """A zip file's member, of which the directory says otherwise."""
    field = rng.choice(("flags", "method", "crc", "packed", "size"))
    limit = 2**16 if field in ("flags", "method") else 2**32
    value = rng.choice((*_EDGES, 8, 12, 14, 40, 64)) % limit
    name = rng.choice(_names(data))
    return directory_edited(data, name, local=rng.random() < 0.5, **{field: value})


def _member(data: bytes, rng: random.Random) -> bytes:
    """A stored member changed within, and its sum set right."""
    stored = [x for x in _names(data) if x.endswith(("data.pkl", "byteorder", "/0"))]
    change = rng.choice((_flip, _fill, _same_number))
    return member_edited(data, rng.choice(stored), lambda old: change(old, rng))


def _same_number(data: bytes, rng: random.Random) -> bytes:
    return _number(data, rng)[: len(data)].ljust(len(data), b"\0")


def _npz_member(data: bytes, rng: random.Random) -> bytes:
    """An array changed as a whole file of its own, and packed again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    head = members[name][:128]
    change = rng.choice((_flip, _fill, _number, _digits, _truncate))
    members[name] = change(head, rng) + members[name][128:]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _within(change: Callable, part: Callable) -> Callable:
    """The change, made in a part of the file alone, from one place to another."""

    def changed(data: bytes, rng: random.Random) -> bytes:
        start, end = part(data)
        return data[:start] + change(data[start:end], rng) + data[end:]

    return changed


def _any(data: bytes, rng: random.Random) -> bytes:
    return rng.choice(list(_BYTES.values()))(data, rng)


def _of_directory(data: bytes) -> tuple[int, int]:
    return data.index(b"PK\x01\x02"), len(data)


def _of_header(data: bytes) -> tuple[int, int]:
    return 0, 8 + int.from_bytes(data[:8], "little")


def _of_pickles(data: bytes) -> tuple[int, int]:
    file = io.BytesIO(data)
    for _ in range(5):
        for _ in pickletools.genops(file):
            pass
    return 0, file.tell()


def _names(data: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.namelist()


def _header(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file's header with another value in it."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    entry = header[rng.choice([key for key in header if key != "__metadata__"])]
    field = rng.choice(("shape", "dtype", "data_offsets"))
    numbers = [rng.choice((0, -1, 1, 8, 10**12, 2**63, 2**64, 1.5)) for _ in range(4)]
    dtypes = ("F64", "F16", "BF16", "I32", "F8_E5M2", "BOOL", ESCAPE, 4)
    changed = rng.choice((numbers[: rng.randrange(5)], rng.choice(_VALUES)))
    entry[field] = rng.choice(dtypes) if field == "dtype" else changed
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _value(data: bytes, rng: random.Random) -> bytes:
    """A JSON object with another value, without one, or with one more."""
    values: dict[str, Any] = json.loads(data)
    key = rng.choice(list(values))
    how = rng.random()
    if how < 0.1:
        values[rng.choice((ESCAPE, key + "s", "x" * 10**4))] = values.pop(key)
    elif how < 0.2:
        del values[key]
    elif how < 0.4 and isinstance(values[key], list) and values[key]:
        values[key][rng.randrange(len(values[key]))] = rng.choice(_VALUES)
    else:
        values[key] = rng.choice(_VALUES)
    return json.dumps(values).encode()


_BYTES = {
    "flip a bit": _flip,
    "flip 8 bits": lambda data, rng: _flip(data, rng, 8),
    "truncate": _truncate,
    "delete": _delete,
    "insert": _insert,
    "double": _double,
    "fill": _fill,
    "swap": _swap,
    "number": _number,
    "digits": _digits,
}
_FIELDS = {
    "npz": {
        "say otherwise in the directory": _directory,
        "damage the directory": _within(_any, _of_directory),
        "edit an array": _npz_member,
    },
    "pt": {
        "say otherwise in the directory": _directory,
        "damage the directory": _within(_any, _of_directory),
        "edit a member": _member,
    },
    "pt before 1.6": {"damage the pickles": _within(_any, _of_pickles)},
    "safetensors": {
        "damage the header": _within(_any, _of_header),
        "edit the header": _header,
    },
    "diffusers": {"edit a value": _value},
}
