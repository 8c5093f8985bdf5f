"""Weights are the published ones or known by their checksum; all else is one line."""

import hashlib

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ddpm_jax.evaluation import inception, weights

CONTENT = b"the weights" * 1000

SHAPES = {"fc.weight": (4, 3), "fc.bias": (4,)}
SMALL = {
    "fc.weight": np.arange(12, dtype=np.float32).reshape(4, 3),
    "fc.bias": np.ones(4, np.float32),
    "bn.num_batches_tracked": np.zeros((), np.int64),
}
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    place = tmp_path / "deep" / "cache"
    monkeypatch.setenv("DDPM_JAX_CACHE", str(place))
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return place


def published(url):
    return weights.Published(f"net-{SHA[:8]}.pth", url, SHA)


def test_a_published_file_is_downloaded_once(server, cache):
    for _ in range(2):
        found = weights.find(published(server.url))
        assert found == (cache / f"net-{SHA[:8]}.pth", SHA, True)
        assert found.path.read_bytes() == CONTENT
    assert server.count == 1
    assert [path.name for path in cache.iterdir()] == [found.path.name]


@pytest.mark.parametrize(
    ("answer", "kind", "line"),
    [
        ((404, {}, b""), OSError, "cannot be downloaded into it .*404"),
        ((200, {"Content-Length": 20_000}, CONTENT), OSError, "IncompleteRead"),
        ((200, {}, b"another"), ValueError, f"must have the SHA-256 {SHA}; got"),
    ],
)
def test_a_download_that_fails_leaves_nothing(server, cache, answer, kind, line):
    server.answer = answer
    with pytest.raises(kind, match=line) as error:
        weights.find(published(server.url))
    assert server.url in str(error.value) and "\n" not in str(error.value)
    assert not list(cache.iterdir())


def test_without_a_network_one_line_says_what_to_do(cache):
    url = "http://127.0.0.1:9/file"  # nobody listens
    with pytest.raises(OSError) as error:
        weights.find(published(url))
    line = str(error.value)
    assert line.startswith(f"there is no {cache}/net-{SHA[:8]}.pth, and {url} cannot")
    assert line.endswith("put the file there, or give its path") and "\n" not in line


def test_what_lies_in_the_cache_is_compared(cache):
    cache.mkdir(parents=True)
    (cache / f"net-{SHA[:8]}.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=f"must have the SHA-256 {SHA}; got .* whole"):
        weights.find(published("http://127.0.0.1:9/file"))


def test_a_path_may_lead_to_other_weights_under_another_name(tmp_path):
    other = weights.Published("net.pth", "", SHA)
    for name, content, known in (
        ("net.pth", CONTENT, True),
        (f"weights-net-{SHA[:8]}.pth", CONTENT, True),  # torch-fidelity's name
        ("mine.pth", CONTENT[1:], False),
        ("inception-2015-12-05.pth", CONTENT[1:], False),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        found = weights.find(other, str(path))
        assert found == (path, hashlib.sha256(content).hexdigest(), known)
    for name in ("net.pth", f"mine-{SHA[:8]}.pth"):
        (tmp_path / name).write_bytes(CONTENT[1:])
        with pytest.raises(
            ValueError, match=rf"{name} must have the SHA-256 {SHA[:8]}"
        ):
            weights.find(other, tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent"):
        weights.find(other, tmp_path / "absent")


def test_the_cache_is_where_the_system_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.delenv("DDPM_JAX_CACHE", raising=False)
    monkeypatch.setattr(weights.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.cache() == tmp_path / "ddpm_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(weights.cache()) == "/home/me/.cache/ddpm_jax"


def test_published_names_and_checksums_agree():
    hashed = weights.INCEPTION
    assert hashed.name.endswith(f"-{hashed.sha256[:8]}.pth")
    for each in (weights.INCEPTION, weights.DINOV2_VITL14):
        assert each.url.endswith(f"/{each.name}") and len(each.sha256) == 64


def changed(**tensors):
    return {key: x for key, x in (SMALL | tensors).items() if x is not None}


@pytest.mark.parametrize(
    ("tensors", "line"),
    [
        (changed(**{"fc.bias": None}), r"1 missing \(fc.bias\)"),
        (changed(aux=np.ones(2, np.float32)), r"1 left over \(aux\)"),
        (changed(**{"fc.bias": np.ones(5)}), r"fc.bias: \(5,\), not \(4,\)"),
        (
            changed(**{"fc.bias": np.full(4, np.nan, np.float32)}),
            "the tensor fc.bias must hold finite numbers",
        ),
    ],
)
def test_a_file_of_other_tensors_is_one_line(tmp_path, tensors, line):
    path = tmp_path / "net.safetensors"
    save_file(tensors, path)
    with pytest.raises(ValueError, match=line) as error:
        weights.read(path, SHAPES, ignored=("num_batches_tracked",))
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_safetensors_are_read_as_they_are(tmp_path):
    save_file(SMALL, tmp_path / "net.safetensors")
    read = weights.read(
        tmp_path / "net.safetensors", SHAPES, ignored=("num_batches_tracked",)
    )
    assert set(read) == set(SHAPES)
    np.testing.assert_array_equal(read["fc.weight"], SMALL["fc.weight"])


def test_a_checksum_of_arrays_sees_names_shapes_and_numbers():
    first = weights.digest(SMALL)
    assert first == weights.digest(dict(reversed(SMALL.items())))
    other = [
        SMALL | {"fc.weight": SMALL["fc.weight"].reshape(3, 4)},
        SMALL | {"fc.weight": SMALL["fc.weight"] + np.eye(4, 3, dtype=np.float32)},
        SMALL | {"more": np.ones(1)},
    ]
    assert len({first, *map(weights.digest, other)}) == 4


def test_pytorchs_file_is_read_end_to_end(
    tmp_path, cache, monkeypatch, made_weights, made_inception
):
    """As pytorch-fid published it: from the cache, and from a path."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "mine.pth"
    torch.save({k: torch.from_numpy(x) for k, x in made_weights.items()}, path)
    own = inception.load(path)
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (own.checksum, own.published) == (checksum, False)
    jax.tree.map(np.testing.assert_array_equal, own.params, made_inception.params)
    made = weights.INCEPTION._replace(sha256=checksum)
    monkeypatch.setattr(weights, "INCEPTION", made)
    cache.mkdir(parents=True)
    path.rename(cache / made.name)
    known = inception.load(resize="torch_bilinear")
    assert (known.checksum, known.published) == (checksum, True)
    assert known.resize == "torch_bilinear" and known.input == "(x - 127.5) / 127.5"
    cut = tmp_path / "cut.pth"
    with (cache / made.name).open("rb") as whole:
        cut.write_bytes(whole.read(1_000_000))
    with pytest.raises(ValueError, match=r"cut\.pth") as error:
        inception.load(cut)
    assert "\n" not in str(error.value)
    lacking = {
        k: torch.from_numpy(x) for k, x in made_weights.items() if k != "fc.bias"
    }
    torch.save(lacking, cut)
    with pytest.raises(ValueError, match=r"of 472 tensors 1 missing \(fc.bias\)"):
        inception.load(cut)


def test_weights_of_another_network_are_not_taken(made_weights):
    wrong = made_weights | {"fc.weight": np.zeros((1000, 2048))}
    line = r"1 of another shape \(fc.weight: \(1000, 2048\), not \(1008, 2048\)\)"
    with pytest.raises(ValueError, match=line):
        inception.network(wrong)
