"""Small good files of weights in every format, and what a hostile hand makes of them.

`good_files` writes one tiny network as `.npz`, `.safetensors`, `.pt` (as PyTorch writes
it since 1.6, and before) and as a folder of diffusers'. `cases` are files that look
like those and must be refused: sizes that are lies, names that drive a terminal, code,
numbers that no memory holds. Contents are bytes by relative path.
"""

import io
import json
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from ddpm_jax import build
from ddpm_jax.config import Config, DataConfig, NetworkConfig
from ddpm_jax.interop import diffusers_format, diffusers_scheduler, keymaps
from ddpm_jax.interop.facts import Hints
from ddpm_jax.interop.load import parameter_shapes

CONFIG = Config(
    data=DataConfig(source="folder", path="images", image_size=8, channels=3),
    network=NetworkConfig(
        channels=8,
        num_groups=4,
        multipliers=(1,),
        num_blocks=1,
        attention_resolutions=(),
    ),
)
HINTS = {"ho": Hints(image_size=8, num_groups=4), "diffusers": Hints()}
KEY = "conv_in.weight"  # the tensor that most of the cases are about
ESCAPE = "\x1b[31m\x1b]0;owned\x07\n"
HUGE = 10**12


class Files(NamedTuple):
    """What is to be read.

    Attributes:
        contents: by relative path.
        path: of the file or folder to read among them.
        layout: a key of `HINTS`.
    """

    contents: dict[str, bytes]
    path: str
    layout: str = "ho"


Cases = Iterator[tuple[str, dict[str, bytes]]]  # (name, contents)


def weights(layout: str) -> dict[str, np.ndarray]:
    """The tiny network's tensors by the layout's keys."""
    rng = np.random.default_rng(0)
    network = build.make_network(CONFIG)
    keymap = getattr(keymaps, layout)(network, parameter_shapes(network, CONFIG))
    return {
        peer.key: rng.normal(size=peer.shape).astype(np.float32)
        for peer in keymap.values()
    }


def good_files(torch: Any = None) -> dict[str, Files]:
    """The tiny network in every format; PyTorch's where there is PyTorch."""
    ho, diffusers = weights("ho"), weights("diffusers")
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **ho)
    good = {
        "npz": Files({"x.npz": file.getvalue()}, "x.npz"),
        "safetensors": Files(
            {"x.safetensors": safetensors.numpy.save(ho)}, "x.safetensors"
        ),
        "diffusers": Files(
            {
                "m/config.json": _json(diffusers_format.write_unet(CONFIG)),
                "m/scheduler_config.json": _json(
                    diffusers_scheduler.write_scheduler(CONFIG.diffusion)
                ),
                "m/diffusion_pytorch_model.safetensors": safetensors.numpy.save(
                    diffusers
                ),
            },
            "m",
            "diffusers",
        ),
    }
    if torch is not None:
        tensors = {key: torch.from_numpy(x) for key, x in ho.items()}
        good["pt"] = Files({"x.pt": saved(torch, tensors)}, "x.pt")
        good["pt before 1.6"] = Files({"x.pt": saved(torch, tensors, False)}, "x.pt")
    return good


def cases(torch: Any = None, form: str | None = None) -> Iterator[tuple[str, Files]]:
    """(name, files) of what must be refused with one line.

    Args:
        torch: PyTorch, to make its files.
        form: a key of `good_files`; None = all.
    """
    good = good_files(torch)
    for key in good if form is None else [form]:
        files = good[key]
        for case in _CASES[key](files, torch):
            yield f"{key}: {case[0]}", files._replace(contents=case[1])


def saved(torch: Any, content: Any, zipped: bool = True) -> bytes:
    """What `torch.save` writes."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def directory_edited(
    data: bytes, name: str, *, local: bool = True, **fields: int
) -> bytes:
    """A zip file whose directory says otherwise of one member.

    Args:
        data: the zip file.
        name: the end of the member's.
        local: say it before the member, too.
        fields: flags, method, crc, packed or size -> value.
    """
    places = {"flags": 8, "method": 10, "crc": 16, "packed": 20, "size": 24}
    edited = bytearray(data)
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        length = struct.unpack_from("<H", data, at + 28)[0]
        if data[at + 46 : at + 46 + length].endswith(name.encode()):
            start = struct.unpack_from("<I", data, at + 42)[0]
            for field, value in fields.items():
                form = "<H" if places[field] < 16 else "<I"
                struct.pack_into(form, edited, at + places[field], value)
                if local:
                    struct.pack_into(form, edited, start + places[field] - 2, value)
        at = data.find(b"PK\x01\x02", at + 4)
    return bytes(edited)


def member_edited(data: bytes, name: str, change: Any) -> bytes:
    """A zip file one of whose stored members is changed, and its sum set right."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (member,) = (x for x in archive.infolist() if x.filename.endswith(name))
        old = archive.read(member)
    new = change(old)
    if len(new) != len(old):
        raise ValueError(f"{len(new)} bytes must be {len(old)}")
    return directory_edited(data.replace(old, new, 1), name, crc=zlib.crc32(new))


def _json(values: Any) -> bytes:
    return json.dumps(values).encode()


def _npy(shape: str, data: bytes, descr: str = "'<f4'", order: str = "False") -> bytes:
    """A .npy file with a header of any text."""
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    return _npy_of_header(header.encode(), data)


def _npy_of_header(header: bytes, data: bytes, version: int = 1) -> bytes:
    form = "<H" if version == 1 else "<I"
    padded = header + b" " * (63 - (len(header) + 10) % 64) + b"\n"
    start = b"\x93NUMPY" + bytes([version, 0]) + struct.pack(form, len(padded))
    return start + padded + data


def _of_one_file(make: Callable) -> Callable[[Files, Any], Cases]:
    """The cases of a format that is one file, by what its content is made to."""

    def cases_of(files: Files, torch: Any) -> Cases:
        (content,) = files.contents.values()
        for name, data in make(content, torch):
            yield name, {files.path: data}

    return cases_of


def _npz_cases(good: bytes, _: Any) -> Iterator[tuple[str, bytes]]:
    arrays = _npz_members(good)
    name, whole = f"{KEY}.npy", arrays[f"{KEY}.npy"]

    def with_member(data: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
        return zipped({**arrays, name: data}, method)

    yield "empty", b""
    yield "text", b"<!DOCTYPE html>\n" * 9
    yield "no member", zipped({})
    yield "only its end", good[-22:]
    for part in (1, 10, 50, 90, 99):
        yield f"{part} % of it", good[: len(good) * part // 100]
    yield "without its last byte", good[:-1]
    end = bytearray(good)
    end[-6:-2] = b"\xff\xff\xff\x7f"
    yield "its directory lies beyond it", bytes(end)
    for field, value in (
        *(("flags", 1), ("method", 77), ("method", 12), ("method", 14)),
        *(("crc", 1), ("size", 2**31), ("size", 4), ("packed", 2**31), ("packed", 4)),
    ):
        edited = directory_edited(good, name, **{field: value})
        yield f"{field} {value} of a member", edited
    yield "method 0 of a packed member", directory_edited(good, name, method=0)
    elsewhere = directory_edited(good, name, local=False, size=len(whole) + 1)
    yield "two sizes of a member", elsewhere
    yield "packed by bzip2", with_member(whole, zipfile.ZIP_BZIP2)
    yield "packed by lzma", with_member(whole, zipfile.ZIP_LZMA)
    for shape in (
        *("(1000000000000,)", "(10000000000000, 0)", "(-8, 3, 3, 3)", "(8, -3, -3, 3)"),
        *("(8, 3, 3)", "()", "(8.0, 3, 3, 3)", "(True, 216)", "8", "None", "[216]"),
        *(f"({10**400},)", f"({'1, ' * 99}216)", f"({2**63}, {2**63})", "'many'"),
        *(f"{'(' * 900}216{')' * 900}", f"{'9' * 5000}", "(216,) * 10**9"),
    ):
        yield f"shape {shape[:30]}", with_member(_npy(shape, whole[-864:]))
    for descr in (
        *("'<f8'", "'<f2'", "'<i4'", "'<c8'", "'<M8[s]'", "'<U1'", "'|V4'", "'|b1'"),
        *("'|O'", "'f4,f4'", "[('a', '<f4')]", "'junk'", "None", "4", "'\\x1b[31m'"),
    ):
        yield f"type {descr}", with_member(_npy("(8, 3, 3, 3)", whole[-864:], descr))
    for header in (b"", b"[]", b"{}", b"{'descr': ", b"\xff" * 40, b"(" * 9000):
        member = _npy_of_header(header, whole[-864:])
        yield f"header {header[:10]!r}", with_member(member)
    long = _npy_of_header(b"{'descr': '<f4'}" + b" " * 40_000, whole[-864:])
    yield "a header of 40,000 spaces", with_member(long)
    for version in (2, 3, 9):
        member = _npy_of_header(b"{}", b"", version)
        yield f"version {version} of a header", with_member(member)
    yield "a member that is no array", with_member(b"not an array")
    yield "an empty member", with_member(b"")
    file = io.BytesIO()
    np.save(file, np.array([print], dtype=object), allow_pickle=True)
    yield "a Python object", with_member(file.getvalue())
    yield "short data", with_member(whole[:-4])
    yield "long data", with_member(whole + b"1234")
    wide = _npy("(40000000,)", bytes(160_000_000))
    yield "160 MB in 160 KB", with_member(wide)
    claim = directory_edited(with_member(whole), name, size=2**32 - 2)
    yield "a claim of 4 GB", claim
    for other in (ESCAPE, "a" * 60_000, "\u202e", "x\x00y", "a\nb"):
        extra = zipped({**arrays, f"{other}.npy": whole}, zipfile.ZIP_DEFLATED)
        yield f"a name {other[:5]!r}", extra
    many = {f"extra{i}.npy": _npy("(1,)", b"1234") for i in range(5000)}
    yield "5,000 more arrays", zipped({**arrays, **many})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = io.BytesIO(good)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(name, whole)
    yield "a name twice", file.getvalue()
    del arrays[name]
    yield "without a tensor", zipped(arrays)


def _npz_members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _safetensors_cases(good: bytes, _: Any) -> Iterator[tuple[str, bytes]]:
    length = int.from_bytes(good[:8], "little")
    header, data = json.loads(good[8 : 8 + length]), good[8 + length :]

    def of(header: Any, data: bytes = data) -> bytes:
        text = header if isinstance(header, bytes) else _json(header)
        return struct.pack("<Q", len(text)) + text + data

    def with_entry(**fields: Any) -> bytes:
        return of({**header, KEY: {**header[KEY], **fields}})

    yield "empty", b""
    yield "text", b"<!DOCTYPE html>\n" * 9
    for size in (0, 7, 2**27, 2**40, 2**63, 2**64 - 1):
        yield f"a header of {size} bytes", struct.pack("<Q", size) + good[8:]
    for part in (1, 10, 50, 99):
        yield f"{part} % of it", good[: len(good) * part // 100]
    yield "without its last byte", good[:-1]
    yield "one byte more", good + b"x"
    for text in (b"{}", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100_000):
        yield f"header {text[:9]!r}", of(text)
    yield "a header of nested objects", of(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
    for shape in (
        *([HUGE], [2**63, 2], [2**32, 2**32], [-8, 3, 3, 3], [8, 3, 3], [], None),
        *([8.5, 3, 3, 3], "8", [[8]], [2**64], [HUGE, 0], [1] * 1000 + [216]),
    ):
        yield f"shape {str(shape)[:30]}", with_entry(shape=shape)
    for dtype in ("F64", "F16", "I32", "BOOL", "F8_E4M3", "C64", ESCAPE, "", None, 7):
        yield f"type {dtype!r}", with_entry(dtype=dtype)
    for offsets in ([0, HUGE], [864, 0], [-1, 863], [0, 2**64], [5, 869], [0], None):
        yield f"offsets {offsets}", with_entry(data_offsets=offsets)
    first = header[KEY]
    yield "a hole", with_entry(data_offsets=[x + 4 for x in first["data_offsets"]])
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [len(data), len(data)]}
    for name in (ESCAPE, "a" * 1_000_000, "\u202e", ""):
        yield f"a name {name[:5]!r}", of({**header, name: empty})
    many = {f"extra{i}": empty for i in range(5000)}
    yield "5,000 more tensors", of({**header, **many})
    twice = _json(header)[:-1] + b", " + _json({KEY: empty})[1:]
    yield "a name twice", of(twice)
    for metadata in ({"a": 1}, [], {"a": {"b": "c"}}):
        yield f"metadata {metadata}", of({"__metadata__": metadata, **header})


def _torch_cases(good: bytes, torch: Any) -> Iterator[tuple[str, bytes]]:
    """Of files as PyTorch writes them since 1.6."""
    yield "empty", b""
    yield "text", b"<!DOCTYPE html>\n" * 9
    for part in (1, 10, 50, 90, 99):
        yield f"{part} % of it", good[: len(good) * part // 100]
    yield "without its last byte", good[:-1]
    for field, value in (
        *(("flags", 1), ("method", 8), ("method", 77), ("crc", 1)),
        *(("size", 2**31), ("size", 4), ("packed", 4)),
    ):
        for name in ("/data/0", "/data.pkl"):
            edited = directory_edited(good, name, **{field: value})
            yield f"{field} {value} of {name}", edited
    shorter = directory_edited(good, "/data/0", size=4, packed=4, crc=0)
    yield "a record shorter than its tensor", shorter
    yield "a record without its name", good.replace(b"/data/0", b"/data/~")
    yield "records that are packed", zipped(_npz_members(good), zipfile.ZIP_DEFLATED)
    yield "big-endian", member_edited(good, "/byteorder", lambda _: b"bigbig")
    yield from _of_contents(torch, good, zipped=True)
    for name, pickled in _pickles().items():
        members = {"a/data.pkl": pickled, "a/version": b"3\n", "a/data/0": bytes(864)}
        yield f"pickle: {name}", zipped(members)
    for count in (217, 255, 0):  # where 216 are meant

        def change(old: bytes, count: int = count) -> bytes:
            return old.replace(b"K\xd8", bytes([ord("K"), count]), 1)

        yield f"a storage of {count}", member_edited(good, "/data.pkl", change)
    script = {**_npz_members(good), "archive/constants.pkl": b"\x80\x02)."}
    yield "TorchScript", zipped(script)
    yield "safetensors inside", safetensors.numpy.save(weights("ho"))


def _legacy_cases(good: bytes, torch: Any) -> Iterator[tuple[str, bytes]]:
    """Of files as PyTorch wrote them before 1.6."""
    for part in (1, 10, 50, 90, 99):
        yield f"{part} % of it", good[: len(good) * part // 100]
    yield "without its last byte", good[:-1]
    yield from _of_contents(torch, good, zipped=False)
    start = good[: good.index(b"\x80\x02", good.index(b"type_sizes"))]
    for name, pickled in _pickles().items():
        yield f"pickle: {name}", start + pickled
    for count in (217, 255):  # where 216 are meant
        changed = good.replace(b"K\xd8", bytes([ord("K"), count]), 1)
        yield f"a storage of {count}", changed
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for member in ("storages", "tensors", "pickle"):
            tar.addfile(tarfile.TarInfo(member))
    yield "a tar file", file.getvalue()


class _Code:
    """Calls something when it is unpickled."""

    def __reduce__(self):
        return (print, ("it ran",))


def _of_contents(torch: Any, good: bytes, zipped: bool) -> Iterator[tuple[str, bytes]]:
    """Of state dicts whose tensors are not what they seem."""
    state = torch.load(io.BytesIO(good), weights_only=True)
    shape = state[KEY].shape
    block = torch.zeros(10**5)
    looped: list[Any] = []
    looped.append(looped)
    shared: Any = [1]
    for _ in range(5):
        shared = [shared] * 1000
    contents: dict[str, Any] = {
        "an expanded tensor of 10^12": {**state, KEY: torch.zeros(1).expand(HUGE)},
        "an expanded tensor": {**state, KEY: torch.zeros(1).expand(shape)},
        "a matrix of one row": {**state, KEY: block[:8].expand(10**6, 8)},
        "1,000 views of one storage": {
            **state,
            **{f"down.0.extra{i}": block.view(-1) for i in range(1000)},
        },
        "overlapping windows": {
            **state,
            KEY: block.as_strided((40_000, 40_000), (1, 1)),
        },
        "integers": {**state, KEY: torch.zeros(shape, dtype=torch.int32)},
        "complex numbers": {**state, KEY: torch.zeros(shape, dtype=torch.complex64)},
        "no numbers": {**state, KEY: torch.empty(shape, device="meta")},
        "no numbers of 10^12": {**state, KEY: torch.empty(HUGE, device="meta")},
        "a sparse tensor": {**state, KEY: torch.zeros(shape).to_sparse()},
        "another shape": {**state, KEY: torch.zeros(3, 3)},
        "an empty tensor": {**state, KEY: torch.zeros(0, 3, 3, 3)},
        "code": {**state, KEY: _Code()},
        "code beside the weights": {"model": state, "extra": _Code()},
        "a name that drives a terminal": {**state, ESCAPE: torch.zeros(1)},
        "a name of 100,000 letters": {**state, "a" * 100_000: torch.zeros(1)},
        "a number as a name": {**state, 7: torch.zeros(1)},
        "a loop": looped,
        "shared lists": shared,
        "text": "x" * 100_000,
        "nothing": {},
        "numbers": {"lr": 1e-4, "betas": [0.9, 0.999]},
        "a tensor alone": state[KEY],
        "5,000 more tensors": {
            **state,
            **{f"extra{i}": torch.zeros(1) for i in range(5000)},
        },
    }
    for name, content in contents.items():
        yield name, saved(torch, content, zipped)


def _pickles() -> dict[str, bytes]:
    """Pickles that are small, and cost or do much where they are believed."""
    tensor = (
        b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n"
        b"((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
        b"X\x03\x00\x00\x00cpu%btQ%b(%bt(%bt\x89Nt"
        b"Rs."
    )
    one, far = b"K\x01", b"\x8a\x06" + HUGE.to_bytes(6, "little")
    minus = b"J\xff\xff\xff\xff"
    return {
        "a storage of 10^12": tensor % (far, b"K\x00", far, one),
        "a storage of -1": tensor % (minus, b"K\x00", one, one),
        "an offset of 10^12": tensor % (b"K\xd8", far, one, one),
        "an offset of -1": tensor % (b"K\xd8", minus, one, one),
        "a stride of 10^12": tensor % (b"K\xd8", b"K\x00", b"K\x02", far),
        "a stride of -1": tensor % (b"K\xd8", b"K\x00", b"K\x02", minus),
        "a shape of -1": tensor % (b"K\xd8", b"K\x00", minus, one),
        "a key of a million tuples": b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s.",
        "a million lists": b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b".",
        "two million numbers": b"\x80\x02](" + b"K\x01" * 2_000_000 + b"e.",
        "a bytearray of 10^12": b"\x80\x02cbuiltins\nbytearray\n" + far + b"\x85R.",
        "a tensor of 10^12": b"\x80\x02ctorch\nTensor\n" + far + b"\x85R.",
        "os.system": b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
        "a name of another module": f"\x80\x02c{ESCAPE[:5]}os\nsystem\n.".encode(
            "latin1"
        ),
        "an unknown code": b"\x80\x02\xfe.",
        "protocol 5": b"\x80\x05\x95\x00\x00\x00\x00\x00\x00\x00\x7f\x8c\x01a.",
        "no end": b"\x80\x02}",
        "too small a stack": b"\x80\x020000.",
        "a string of 4 GB": b"\x80\x02X\xff\xff\xff\xff.",
    }


def _diffusers_cases(files: Files, _: Any) -> Cases:
    """Of a folder one of whose JSON files says something else."""
    good = files.contents
    for name, path, content in _json_cases(good):
        yield name, {**good, path: content}


def _json_cases(good: dict[str, bytes]) -> Iterator[tuple[str, str, bytes]]:
    """(name, path, content) of one file."""
    unet, scheduler = "m/config.json", "m/scheduler_config.json"
    for path in (unet, scheduler, "m/model_index.json"):
        name = path.removeprefix("m/")
        yield f"{name} empty", path, b""
        yield f"{name} a list", path, b"[]"
        yield f"{name} cut off", path, good.get(path, b'{"unet": [')[:-3]
        yield f"{name} of 100,000 lists", path, b"[" * 10**5 + b"]" * 10**5
        yield f"{name} of nested objects", path, b'{"a":' * 10**5 + b"1" + b"}" * 10**5
        yield f"{name} no UTF-8", path, b'{"a": "\xff\xfe"}'
        yield f"{name} of 20 MB", path, b'{"a": "' + b"x" * 20_000_000 + b'"}'
        yield f"{name} with 10,000 digits", path, b'{"a": ' + b"9" * 10_000 + b"}"
    values = json.loads(good[unet])
    for option, wrong in (
        ("block_out_channels", [[HUGE], [10**4000], [-8], [8.5], [], None, "8", ["8"]]),
        ("block_out_channels", [[8] * 10**5, [True], [[8]], {"a": 8}, [8, 10**4000]]),
        ("layers_per_block", [10**7, 10**18, 0, -1, 1.5, None, "1", [1], True]),
        ("down_block_types", [None, [], "DownBlock2D", [None], [["DownBlock2D"]], {}]),
        ("up_block_types", [None, [], [ESCAPE], ["UpBlock2D"] * 10**5, 3]),
        ("in_channels", [None, 0, -3, HUGE, "3", [3], 1e400]),
        ("out_channels", [None, 0, HUGE, "3", [3]]),
        ("sample_size", [0, -8, "8", [8, 9], [], [[8]], 10**4000, 1.5, {}]),
        ("norm_num_groups", [0, -1, None, 3, "4", HUGE]),
        ("attention_head_dim", [0, -1, 3, "8", [8], HUGE]),
        ("num_class_embeds", [0, -1, HUGE, "10", [10], True]),
        ("dropout", [-1, 1.5, None, "0", [0], 1e400]),
        ("norm_eps", [None, "1", [1]]),
        ("freq_shift", [None, "1", 0.5, [1]]),
        ("flip_sin_to_cos", [None, "yes", 2, []]),
        ("downsample_padding", [None, 2, -1, [0, 1], "0"]),
        ("act_fn", [ESCAPE, None, [], "x" * 10**6]),
        ("_class_name", [ESCAPE, None, [], 7]),
        (ESCAPE, [1]),
        ("a" * 10**6, [1]),
        ("_ddpm_jax", [5, None, [], {}, {"config": None, "step": 0}]),
        ("_ddpm_jax", [{"config": {"network": 3}, "step": 0}]),
        (
            "_ddpm_jax",
            [{"config": {ESCAPE: 3}, "step": 0}, {"config": {}, "step": 1e400}],
        ),
        ("optimization_step", [-1, 1.5, "many", [], 1e400]),
    ):
        for value in wrong:
            content = _json({**values, option: value})
            yield f"{option[:20]!a} {str(value)[:20]!a}", unet, content
    lots = {f"{ESCAPE}{i}": 1 for i in range(10**4)}
    yield "10,000 options more", unet, _json({**values, **lots})
    values = json.loads(good[scheduler])
    for option, wrong in (
        ("beta_schedule", [None, ESCAPE, [], {}, 3]),
        ("num_train_timesteps", [None, 0, -1, 1.5, "many", []]),
        ("beta_start", [0, -1, 2, "0", [], 1e400]),
        ("prediction_type", [None, ESCAPE, []]),
        ("variance_type", [ESCAPE, [], 3]),
        ("trained_betas", ["many", 3, {}, [[0.1]], [None]]),
        ("clip_sample", ["yes", 2, [], {}]),
        ("thresholding", ["yes", 2, [True]]),
        ("_class_name", [ESCAPE, [], 7]),
    ):
        for value in wrong:
            content = _json({**values, option: value})
            yield f"{option} {str(value)[:20]!a}", scheduler, content
    index = {"unet": ["diffusers", "UNet2DModel"], ESCAPE: ["diffusers", ESCAPE]}
    yield "a model beside it", "m/model_index.json", _json(index)


_CASES: dict[str, Callable[[Files, Any], Cases]] = {
    "npz": _of_one_file(_npz_cases),
    "safetensors": _of_one_file(_safetensors_cases),
    "diffusers": _diffusers_cases,
    "pt": _of_one_file(_torch_cases),
    "pt before 1.6": _of_one_file(_legacy_cases),
}
