"""Files of statistics: every evaluator's is read, ours are theirs, bad ones refused."""

import hashlib
import io
import pickle
import zipfile

import numpy as np
import pytest

from ddpm_jax.evaluation.pickles import read_pickle
from ddpm_jax.evaluation.statistics import (
    Statistics,
    read_reference,
    write_reference,
)


def statistics(d, seed, images=None):
    x = np.random.default_rng(seed).normal(size=(4 * d, d))
    return Statistics(x.mean(0), np.cov(x.T), images)


POOLED, SPATIAL, DINO = (statistics(d, d, 50_000) for d in (16, 5, 8))
IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3)).astype(np.uint8)


def same(found, wanted, images=None):
    np.testing.assert_array_equal(found.mean, wanted.mean)
    np.testing.assert_array_equal(found.cov, wanted.cov)
    assert found.mean.dtype == found.cov.dtype == np.float64
    assert found.images == images


def test_pytorch_fid_and_edm(tmp_path):
    path = tmp_path / "stats.npz"
    np.savez_compressed(path, mu=POOLED.mean, sigma=POOLED.cov)
    reference = read_reference(path)
    same(reference.statistics("2048", 16), POOLED)
    assert reference.images is None and reference.source == str(path)
    assert reference.checksum == hashlib.sha256(path.read_bytes()).hexdigest()
    same(read_reference(path, tap="64").statistics("64", 16), POOLED)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_guided_diffusion(tmp_path, save):
    path, names = tmp_path / "ref.npz", ("mu", "sigma", "mu_s", "sigma_s")
    arrays = (POOLED.mean, POOLED.cov, SPATIAL.mean, SPATIAL.cov)
    save(path, arr_0=IMAGES, **dict(zip(names, arrays, strict=True)))
    reference = read_reference(path)
    same(reference.statistics("2048", 16), POOLED)
    same(reference.statistics("spatial", 5), SPATIAL)
    assert reference.images.shape == IMAGES.shape
    np.testing.assert_array_equal(reference.images.read(), IMAGES)
    batches = list(reference.images.batches(3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(batches), IMAGES)


def test_images_alone_in_either_order_of_memory(tmp_path):
    path = tmp_path / "samples.npz"
    np.savez(path, np.asfortranarray(IMAGES), labels=np.arange(7))
    reference = read_reference(path)
    assert not reference.features
    np.testing.assert_array_equal(
        np.concatenate(list(reference.images.batches(2))), IMAGES
    )
    with pytest.raises(ValueError, match=r"must hold statistics of 2048.*has none"):
        reference.statistics("2048", 2048)


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("core", ["_core", "core"])
def test_edm2(tmp_path, protocol, core):
    """Of every protocol, by NumPy 1 and by NumPy 2."""
    held = {"num_images": 50_000, "fid": {"mu": POOLED.mean, "sigma": POOLED.cov}}
    held["fd_dinov2"] = {
        "mu": DINO.mean.astype(">f8"),
        "sigma": np.asfortranarray(DINO.cov),
    }
    data = pickle.dumps(held, protocol)
    if protocol == 2:  # NumPy writes bytes as text there, for a codec to decode
        (tmp_path / "ref.pkl").write_bytes(data)
        with pytest.raises(ValueError, match=r"NumPy arrays alone; .*_codecs\.encode"):
            read_reference(tmp_path / "ref.pkl")
        return
    old, new = f"numpy.{core}.".encode(), b"numpy._core."
    for name in (b"multiarray", b"numeric"):
        whole = new + name
        if protocol > 3:  # a short text with its length before it
            data = data.replace(
                b"\x8c" + bytes([len(whole)]) + whole,
                b"\x8c" + bytes([len(old + name)]) + old + name,
            )
        else:
            data = data.replace(b"c" + whole + b"\n", b"c" + old + name + b"\n")
    if protocol > 3:  # frames say how long they are
        data = pickle.dumps(held, protocol) if core == "_core" else unframed(data)
    path = tmp_path / "ref.pkl"
    path.write_bytes(data)
    reference = read_reference(path)
    same(reference.statistics("2048", 16), POOLED, 50_000)
    same(reference.statistics("dinov2", 8), DINO, 50_000)


def unframed(data):
    """Without frames, which need not be there."""
    import pickletools

    cut = [
        position
        for opcode, _, position in pickletools.genops(data)
        if opcode.name == "FRAME"
    ]
    for position in reversed(cut):
        data = data[:position] + data[position + 9 :]
    return data


@pytest.mark.parametrize("ending", ["npz", "pkl"])
def test_what_is_written_is_read_and_holds_no_object(tmp_path, ending):
    path = tmp_path / f"ref.{ending}"
    other = {"npz": ("spatial", SPATIAL), "pkl": ("dinov2", DINO)}[ending]
    write_reference(path, {"2048": POOLED, other[0]: other[1]})
    reference = read_reference(path)
    same(reference.statistics("2048", 16), POOLED, 50_000)
    same(reference.statistics(other[0], len(other[1].mean)), other[1], 50_000)
    if ending == "npz":
        with np.load(path, allow_pickle=False) as file:  # as pytorch-fid does
            np.testing.assert_array_equal(file["sigma"], POOLED.cov)
            np.testing.assert_array_equal(file["mu_s"], SPATIAL.mean)
    else:
        held = pickle.loads(path.read_bytes())  # as EDM2 does
        np.testing.assert_array_equal(held["fd_dinov2"]["sigma"], DINO.cov)
        assert held["num_images"] == 50_000


def test_own_features_and_images_are_written(tmp_path):
    path = tmp_path / "digits.npz"
    write_reference(path, {"digits": POOLED}, images=IMAGES, tap="digits")
    reference = read_reference(path, tap="digits")
    same(reference.statistics("digits", 16), POOLED, 50_000)
    np.testing.assert_array_equal(reference.images.read(), IMAGES)


def test_what_no_such_file_can_hold_is_not_written(tmp_path):
    for name, features in (
        ("a.npz", {"dinov2": DINO}),
        ("a.pkl", {"spatial": SPATIAL}),
        ("a.txt", {"2048": POOLED}),
        ("a.npz", {"2048": POOLED._replace(cov=POOLED.cov * np.nan)}),
        ("a.pkl", {"2048": POOLED, "dinov2": DINO._replace(images=3)}),
    ):
        with pytest.raises(ValueError, match=name):
            write_reference(tmp_path / name, features)
    assert not list(tmp_path.iterdir())


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


MU, SIGMA = POOLED.mean, POOLED.cov
SKEW = SIGMA + np.tri(16)
BAD_NPZ = {
    "empty": (b"", "is not a whole .npz"),
    "truncated": (npz(mu=MU, sigma=SIGMA)[:-100], "is not a whole .npz"),
    "no npz": (b"\x80\x04}.", "is not a whole .npz"),
    "a dict": (npz(arr_0={"mu": MU}), "must hold numbers; arr_0 holds Python objects"),
    "mu alone": (npz(mu=MU), "must hold mu and sigma; no sigma"),
    "mu_s alone": (npz(mu=MU, sigma=SIGMA, mu_s=MU), "mu_s and sigma_s; no sigma_s"),
    "neither": (npz(features=SIGMA), "must hold statistics or images"),
    "not symmetric": (npz(mu=MU, sigma=SKEW), "2048 features: .* symmetric"),
    "NaN": (npz(mu=MU, sigma=SIGMA * np.nan), "must be finite"),
    "float16": (npz(mu=MU, sigma=SIGMA.astype("f2")), "sigma must be float32 or"),
    "integers": (npz(mu=MU.astype(int), sigma=SIGMA), "mu must be float32 or"),
    "other shapes": (npz(mu=MU, sigma=SIGMA[:4, :4]), r"got \(16,\) and \(4, 4\)"),
    "negative": (npz(mu=MU, sigma=-SIGMA), "a variance must not be negative"),
    "float images": (npz(arr_0=IMAGES / 255), r"arr_0 must hold images, .*float64"),
    "grey images": (npz(arr_0=IMAGES[..., 0]), r"\(n, h, w, c\) uint8; got \(7, 4, 5"),
    "huge": (npz(mu=np.zeros(20_000), sigma=SIGMA), "at most 16384 dimensions"),
}


@pytest.mark.parametrize("kind", BAD_NPZ)
def test_an_npz_that_is_none_is_refused_in_one_line(tmp_path, kind):
    data, line = BAD_NPZ[kind]
    path = tmp_path / "bad.npz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=line) as caught:
        read_reference(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_changed_bit_is_found(tmp_path):
    path = tmp_path / "stats.npz"
    many = np.tile(IMAGES, (300, 1, 1, 1))  # more than is read with the header
    data = bytearray(npz(mu=MU, sigma=SIGMA, arr_0=many))
    data[data.find(many.tobytes()) + 5] ^= 1
    path.write_bytes(data)
    images = read_reference(path).images
    for read in (images.read, lambda: list(images.batches(64))):
        with pytest.raises(ValueError, match=r"stats.npz is not a whole .*arr_0"):
            read()
    data[data.find(SIGMA.tobytes()) + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"stats.npz is not a whole .*sigma"):
        read_reference(path)


def test_a_header_of_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        start = b"\x93NUMPY\x02\x00" + (2**28).to_bytes(4, "little")
        archive.writestr("mu.npy", start + b" " * 2**20)
    with pytest.raises(ValueError, match=r"bomb.npz is not a whole .*mu"):
        read_reference(path)


def test_what_a_protocol_lacks_is_named(tmp_path):
    path = tmp_path / "stats.npz"
    np.savez(path, mu=MU, sigma=SIGMA)
    reference = read_reference(path)
    with pytest.raises(ValueError, match=r"mu_s and sigma_s.*sFID.*it has 2048"):
        reference.statistics("spatial", 2023)
    with pytest.raises(ValueError, match=r"dimension 2048, as the network's.* have 16"):
        reference.statistics("2048", 2048)
    with pytest.raises(ValueError, match=r"must end in \.npz or \.pkl"):
        read_reference(tmp_path / "stats.pth")
    with pytest.raises(FileNotFoundError):
        read_reference(tmp_path / "none.npz")


class Calls:
    """What runs a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(tmp_path):
    """(pickle, what is said of it)"""
    import os

    from numpy._core.multiarray import _reconstruct

    mark = tmp_path / "ran"
    yield Calls(os.system, f"touch {mark}"), r"it would call posix\.system"
    yield Calls(eval, "1"), r"it would call builtins\.eval"
    yield Calls(np.fromfile, str(mark)), r"it would call numpy\.fromfile"
    yield Calls(np.load, str(mark)), r"it would call numpy\.load"
    yield {"fid": {"mu": MU, "sigma": Calls(exec, "1")}}, r"builtins\.exec"
    yield np.array([Calls(exec, "1")]), "the type O8"
    yield {"fid": {"mu": np.array([None]), "sigma": SIGMA}}, "the type O8"
    yield np.zeros(2, [("a", "f8")]), "the type V8"
    yield Calls(_reconstruct, np.ndarray, (2**40,), b"d"), "one has no numbers"
    yield [MU], "must hold a dict; got list"
    yield {"num_images": 1}, "must hold statistics or images"
    yield {"fid": {"mu": MU}}, "fid must hold the arrays mu and sigma"
    yield {"fid": SIGMA}, "fid must hold the arrays mu and sigma"
    yield {"fid": {"mu": MU, "sigma": SKEW}}, "symmetric"
    yield {"fid": {"mu": MU, "sigma": SIGMA.astype("f2")}}, "float32 or float64"
    yield {"fid": {"mu": MU * np.nan, "sigma": SIGMA}}, "finite"


def test_a_pickle_of_anything_else_is_refused_and_not_run(tmp_path):
    path = tmp_path / "ref.pkl"
    for held, line in hostile(tmp_path):
        path.write_bytes(pickle.dumps(held, 4))
        with pytest.raises(ValueError, match=line) as caught:
            read_reference(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        assert [x.name for x in tmp_path.iterdir()] == ["ref.pkl"]


def test_a_pickle_that_is_damaged_or_a_trap_is_refused(tmp_path):
    good = pickle.dumps({"fid": {"mu": MU, "sigma": SIGMA}}, 4)
    short = good.replace(b"B\x00\x08\x00\x00", b"B\x00\x04\x00\x00")
    laughs = b"\x80\x04]\x94" + b"]\x94h\x00ah\x00a0" * 2 + b"."
    cases = [
        b"",
        good[:-60],
        b"PK\x03\x04 no pickle",
        short,
        laughs,
        b"\x80\x04}\x96" + (2**62).to_bytes(8, "little") + b".",  # 2^62 bytes follow
        b"\x80\x04cnumpy\ndtype\n\x8c\x02f8\x89\x88\x87R(K\x03\x8c\x01<NNNJ"
        b"\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbcnumpy._core.numeric\n"
        b"_frombuffer\n(C\x00cnumpy\nndarray\nK\x01tR.",
    ]
    path = tmp_path / "ref.pkl"
    for data in cases:
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"ref\.pkl") as caught:
            read_reference(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"\x80\x04}r\xff\xff\xff\x7f.")  # remembers at place 2^31
    with pytest.raises(ValueError, match="must not refer to more than it holds"):
        read_reference(path)


def test_arrays_keep_their_order_of_memory_and_their_shape(tmp_path):
    path, x = tmp_path / "x.pkl", np.arange(24.0).reshape(2, 3, 4)
    for protocol in (3, 4, 5):
        held = {"c": x, "f": np.asfortranarray(x), "one": x[0, 0, 1], "n": 3}
        path.write_bytes(pickle.dumps(held, protocol))
        found = read_pickle(path)
        for name, value in held.items():
            np.testing.assert_array_equal(found[name], value)
