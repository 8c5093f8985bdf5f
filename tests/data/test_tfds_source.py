"""TensorFlow Datasets without TensorFlow, prepared from hand-made archives."""

import gzip
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import types

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.data import batch_indices, load_tfds, open_tfds, stream_batches
from ddpm_jax.data.builders.mnist import Mnist

NUM_EXAMPLES = {"train": 40, "test": 10}
IDX_NAMES = {"train": "train", "test": "t10k"}


def idx_bytes(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return gzip.compress(header + array.tobytes())


def write_mnist(folder):
    """Random pictures in the layout of MNIST and Fashion-MNIST."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    data = {}
    for split, n in NUM_EXAMPLES.items():
        images = rng.integers(0, 256, (n, 28, 28), np.uint8)
        labels = rng.permutation(np.arange(n, dtype=np.uint8) % 10)
        name = IDX_NAMES[split]
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(idx_bytes(images))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(idx_bytes(labels))
        data[split] = images[..., np.newaxis], labels
    return data


def write_cifar10(folder):
    """Random pictures in the layout of CIFAR-10's binary archive."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    data = {}
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as tar:
        for split, names in {
            "test": ["test_batch.bin"],
            "train": [f"data_batch_{i}.bin" for i in (3, 1, 2, 5, 4)],
        }.items():
            parts = {}
            for name in names:
                n = NUM_EXAMPLES[split] // len(names)
                labels = rng.integers(0, 10, (n, 1), np.uint8)
                planes = rng.integers(0, 256, (n, 3, 32, 32), np.uint8)
                records = np.hstack([labels, planes.reshape(n, -1)]).tobytes()
                info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                info.size = len(records)
                tar.addfile(info, io.BytesIO(records))
                parts[name] = planes.transpose(0, 2, 3, 1), labels[:, 0]
            in_order = [parts[name] for name in sorted(parts)]
            data[split] = tuple(np.concatenate(p) for p in zip(*in_order, strict=True))
    return data


@pytest.fixture(scope="module", autouse=True)
def own_temporary_directory(tmp_path_factory):
    """TensorFlow Datasets leaves an empty directory behind for each new builder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A directory with all three sets prepared, and what went into each."""
    root = tmp_path_factory.mktemp("tfds")
    contents = {}
    for name in ("mnist", "fashion_mnist", "cifar10"):
        write = write_cifar10 if name == "cifar10" else write_mnist
        contents[name] = write(root / "files" / name)
        open_tfds(name, split="train", data_dir=root, manual_dir=root / "files" / name)
    return root, contents


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_pictures_and_labels_come_back_in_order(prepared, name, split):
    root, contents = prepared
    images, labels = contents[name][split]
    arrays = load_tfds(name, split=split, data_dir=root, download=False)
    np.testing.assert_array_equal(arrays.images, images)
    np.testing.assert_array_equal(arrays.labels, labels)
    assert arrays.num_classes == 10 and arrays.name == f"{name}/{split}"


def test_label_names(prepared):
    root, _ = prepared

    def names(name):
        return open_tfds(name, split="test", data_dir=root).label_names

    assert names("mnist") == tuple("0123456789")
    assert names("cifar10")[:3] == ("airplane", "automobile", "bird")
    assert names("fashion_mnist")[0] == "T-shirt/top"
    assert names("fashion_mnist")[9] == "Ankle boot"


def test_a_split_can_be_sliced(prepared):
    root, contents = prepared
    images, labels = contents["cifar10"]["train"]
    source = open_tfds("cifar10", split="train[25%:]", data_dir=root)
    assert len(source) == 30 and source.image_shape == (32, 32, 3)
    np.testing.assert_array_equal(source[4]["image"], images[14])
    assert source[4]["label"] == labels[14]


def test_a_source_resizes_and_streams(prepared):
    root, _ = prepared
    args = dict(split="train", data_dir=root, image_size=16, resize=True)
    arrays = load_tfds("cifar10", **args)
    assert arrays.image_shape == (16, 16, 3)
    stream = stream_batches(open_tfds("cifar10", **args), seed=0, batch_size=8)
    index = batch_indices(0, 0, 8, 40)
    np.testing.assert_array_equal(next(stream)["image"], arrays.images[index])
    stream.close()
    with pytest.raises(ValueError, match=r"example 0.*16x16.*got 32x32"):
        load_tfds("cifar10", split="train", data_dir=root, image_size=16)


def as_stock(root, target, file_format="array_record"):
    """The prepared MNIST under the name and version of the stock builder."""
    import tensorflow_datasets as tfds

    version = str(tfds.builder_cls("mnist").VERSION)
    source, target = root / "ddpm_jax_mnist" / "1.0.0", target / "mnist" / version
    target.mkdir(parents=True)
    for file in source.iterdir():
        name = file.name.replace("ddpm_jax_mnist", "mnist")
        (target / name).write_bytes(file.read_bytes())
    info = json.loads((target / "dataset_info.json").read_text())
    info |= {"name": "mnist", "version": version, "fileFormat": file_format}
    (target / "dataset_info.json").write_text(json.dumps(info))


def test_prepared_stock_data_are_just_read(prepared, tmp_path):
    root, contents = prepared
    as_stock(root, tmp_path)
    arrays = load_tfds("mnist", split="test", data_dir=tmp_path, download=False)
    np.testing.assert_array_equal(arrays.images, contents["mnist"]["test"][0])
    assert [path.name for path in tmp_path.iterdir()] == ["mnist"], "nothing is added"


def test_stock_data_without_random_access_are_left_alone(prepared, tmp_path):
    root, contents = prepared
    as_stock(root, tmp_path, file_format="tfrecord")
    files = sorted((tmp_path / "mnist").rglob("*"))
    manual_dir = root / "files" / "mnist"
    arrays = load_tfds("mnist", split="test", data_dir=tmp_path, manual_dir=manual_dir)
    np.testing.assert_array_equal(arrays.images, contents["mnist"]["test"][0])
    assert sorted((tmp_path / "mnist").rglob("*")) == files


def test_stock_data_of_another_format_say_so(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr("ddpm_jax.data.tfds_source._own_builder", lambda *args: None)
    as_stock(prepared[0], tmp_path, file_format="tfrecord")
    with pytest.raises(ValueError, match=r"must be prepared as array_record.*tfrecord"):
        open_tfds("mnist", split="test", data_dir=tmp_path)


def test_an_unknown_name_gets_one_line_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"cifar11: .*no such.*cifar10") as error:
        open_tfds("cifar11", split="train", data_dir=tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["cifar10/grey", "cifar10:9.9.9", "not a name"])
def test_a_misspelt_name_gets_one_line(tmp_path, name):
    with pytest.raises(ValueError, match=name) as error:
        open_tfds(name, split="train", data_dir=tmp_path)
    assert "\n" not in str(error.value)


def test_an_unknown_split_is_named(prepared):
    with pytest.raises(ValueError, match=r"\['test', 'train'\]; got 'valid'"):
        open_tfds("mnist", split="valid", data_dir=prepared[0])


def test_a_set_without_images_is_refused(prepared, monkeypatch):
    from ddpm_jax.data import tfds_source

    builder = types.SimpleNamespace(info=types.SimpleNamespace(features={"text": 0}))
    monkeypatch.setattr(tfds_source, "_prepared_builder", lambda *args: builder)
    with pytest.raises(ValueError, match=r"a feature 'image'; got \['text'\]"):
        open_tfds("mnist", split="train")


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def open_made(monkeypatch, image, pixels, **options):
    """A set of one picture with this image feature, as if it were prepared."""
    import tensorflow_datasets as tfds

    from ddpm_jax.data import tfds_source

    features = {"image": image(tfds.features)}
    builder = types.SimpleNamespace(
        info=types.SimpleNamespace(features=features, splits=["train"]),
        as_data_source=lambda split, decoders: [{"image": png(pixels)}],
    )
    asked = []

    def prepared_builder(name, *where):
        asked.append(where)
        return builder

    monkeypatch.setattr(tfds_source, "_prepared_builder", prepared_builder)
    return open_tfds("made", split="train", **options), asked


def test_transparent_pictures_lie_on_the_background(monkeypatch):
    hidden = np.full((4, 4, 4), [0, 255, 0, 0], np.uint8)
    four = lambda features: features.Image(shape=(4, 4, 4))  # noqa: E731
    source, _ = open_made(monkeypatch, four, hidden, background=(9, 8, 7))
    assert source.image_shape == (4, 4, 3)
    np.testing.assert_array_equal(source[0]["image"], np.full((4, 4, 3), [9, 8, 7]))


def test_deep_pictures_are_scaled(monkeypatch):
    def deep(features):
        return features.Image(shape=(None, None, 1), dtype=np.uint16)

    source, _ = open_made(
        monkeypatch, deep, np.full((4, 4), 40_000, np.uint16), image_size=4
    )
    assert np.all(source[0]["image"] == round(40_000 / 257))


def test_pictures_of_other_numbers_are_refused(monkeypatch):
    """Floats are stored as the bytes of a PNG of four channels."""

    def floats(features):
        return features.Image(shape=(4, 4, 1), dtype=np.float32)

    with pytest.raises(ValueError, match=r"made: .*8 or 16 bits.*got float32"):
        open_made(monkeypatch, floats, np.zeros((4, 4, 4), np.uint8))


def test_homes_are_found(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    grey = lambda features: features.Image(shape=(4, 4, 1))  # noqa: E731
    where = {"data_dir": "~/data", "manual_dir": "~/files"}
    _, asked = open_made(monkeypatch, grey, np.zeros((4, 4), np.uint8), **where)
    assert asked == [(str(tmp_path / "data"), str(tmp_path / "files"), True)]


def test_unprepared_data_say_what_to_do(tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *args: None if name == "tensorflow" else find_spec(name, *args),
    )
    with pytest.raises(ValueError, match=r"pip install 'ddpm_jax\[tensorflow\]'"):
        open_tfds("cifar100", split="train", data_dir=tmp_path)
    for name in ("cifar10", "cifar100"):
        with pytest.raises(ValueError, match=r"unless download is on; found none"):
            open_tfds(name, split="train", data_dir=tmp_path, download=False)
    assert not any(tmp_path.iterdir())


def test_data_that_another_process_prepares_meanwhile_are_read(tmp_path, monkeypatch):
    write_mnist(tmp_path / "files")
    prepare = Mnist.download_and_prepare

    def comes_second(self, **options):
        prepare(self, **options)
        raise OSError("Cannot rename: the destination exists")

    monkeypatch.setattr(Mnist, "download_and_prepare", comes_second)
    files = {"data_dir": tmp_path, "manual_dir": tmp_path / "files"}
    assert len(open_tfds("mnist", split="train", **files))


def check_not_prepared(tmp_path, name, message):
    """One line that names the file, and nothing left that looks like data."""
    with pytest.raises(ValueError, match=message) as error:
        open_tfds(name, split="train", data_dir=tmp_path, manual_dir=tmp_path / "files")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*/1.0.0"))


def test_damaged_idx_files_are_named(tmp_path):
    files = tmp_path / "files"
    check_not_prepared(tmp_path, "mnist", "train-images-idx3-ubyte.gz: .*no such file")
    write_mnist(files)
    images = files / "train-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    images.write_bytes(whole[:1000])
    check_not_prepared(tmp_path, "mnist", "train-images.*cannot be read as gzip")
    images.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    check_not_prepared(tmp_path, "mnist", r"train-images.*\(40, 28, 28\) needs 31360")
    images.write_bytes(gzip.compress(b"not an IDX file"))
    check_not_prepared(tmp_path, "mnist", "train-images.*must be an IDX file")
    images.write_bytes(idx_bytes(np.zeros((39, 28, 28), np.uint8)))
    check_not_prepared(tmp_path, "mnist", r"one label each; got shape \(39, 28, 28\)")


def test_damaged_archives_are_named(tmp_path):
    files = tmp_path / "files"
    write_cifar10(files)
    archive = files / "cifar-10-binary.tar.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    check_not_prepared(tmp_path, "cifar10", r"cifar-10-binary\.tar\.gz: cannot read")
    archive.write_bytes(b"not an archive")
    check_not_prepared(tmp_path, "cifar10", r"cifar-10-binary\.tar\.gz: cannot read")
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        info.size = 3072
        tar.addfile(info, io.BytesIO(bytes(3072)))
    check_not_prepared(tmp_path, "cifar10", "records of 3073 bytes; got 3072")


def test_every_download_has_a_published_checksum():
    from tensorflow_datasets.core.download import checksums

    from ddpm_jax.data.builders import cifar10, mnist

    known = checksums.get_all_url_infos()
    names = [name for names in mnist.FILES.values() for name in names]
    urls = [cifar10.URL + cifar10.ARCHIVE]
    urls += [mnist.Mnist.URL + name for name in names]
    urls += [mnist.FashionMnist.URL + name for name in names]
    assert all(len(known[url].checksum) == 64 for url in urls)


WITHOUT_TENSORFLOW = """
import sys
import ddpm_jax.data
assert not {"tensorflow_datasets", "grain", "flax"} & set(sys.modules), "heavy import"

root, files = sys.argv[1:]
args = dict(data_dir=root, manual_dir=files)
assert len(ddpm_jax.data.load_tfds("cifar10", split="train", **args)) == 40
assert "tensorflow" not in sys.modules
"""


def test_tensorflow_is_not_needed(tmp_path):
    write_cifar10(tmp_path / "files")
    subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, tmp_path, tmp_path / "files"],
        check=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
