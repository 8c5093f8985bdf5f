"""Data sets of TensorFlow Datasets, read without TensorFlow (three prepared, too).

Data prepared as array_record are read as they are. CIFAR-10, MNIST and Fashion-MNIST
are prepared by the builders of this package; the stock builders of all other sets need
TensorFlow, once.
"""

import contextlib
import difflib
import importlib.util
import io
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.data.arrays import ImageArrays
from ddpm_jax.data.colour import WHITE, Background
from ddpm_jax.data.pixels import check_shape, decode, fit
from ddpm_jax.data.sources import Example, read_all

FORMAT = "array_record"  # the format with random access


class TfdsSource:
    """The images of one split, decoded when they are asked for (see `open_tfds`).

    Args:
        records: random access to the encoded examples.
        name: for messages and logs.
        image_shape: (h, w, c) of every image.
        label_names: one per class; none if unlabelled.
        resize: whether to crop and scale images of other sizes.
        background: what shows where an image is transparent, grey or RGB in 0..255.

    Raises:
        ValueError: if there are no images of such a shape. Asked for an image that
            cannot be read or has another size, it names the example.
    """

    def __init__(
        self,
        records: Any,
        *,
        name: str,
        image_shape: tuple[int, int, int],
        label_names: tuple[str, ...],
        resize: bool,
        background: Background = WHITE,
    ) -> None:
        check_shape(image_shape)
        self.records = records
        self.name = name
        self.image_shape = image_shape
        self.label_names = label_names
        self.resize = resize
        self.background = background

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        """{"image": (h, w, c) uint8}, and "label" where there are classes."""
        record = self.records[index]
        what = f"{self.name}: example {index}"
        encoded = io.BytesIO(record["image"])
        picture = decode(encoded, what, background=self.background)
        image = fit(picture, what, shape=self.image_shape, resize=self.resize)
        if not self.label_names:
            return {"image": image}
        return {"image": image, "label": np.asarray(record["label"], np.int32)}


def open_tfds(
    name: str,
    *,
    split: str,
    data_dir: str | os.PathLike[str] | None = None,
    manual_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    image_size: int | None = None,
    resize: bool = False,
    background: Background = WHITE,
) -> TfdsSource:
    """One split of a data set, prepared first if need be.

    Images of two or four channels are composited on `background`.

    Args:
        name: as TensorFlow Datasets spells it: "name", "name/config", "name:version".
        split: "train", "test", "train[:90%]", ...
        data_dir: where prepared data are (~ is the user's home); None is TensorFlow
            Datasets' own default.
        manual_dir: a directory with the published files, used instead of downloads.
        download: whether data that are not on disk may be fetched and prepared.
        image_size: the side of every image; None takes images as they are, which must
            then be of one size.
        resize: whether to crop and scale images to `image_size` (see `pixels.fit`).
        background: what shows where an image is transparent, grey or RGB in 0..255.

    Raises:
        ValueError: if there is no such data set or split, if it has no images of 8 or
            16 bits or they differ in size, or if it is not prepared and cannot be; the
            message says what to do.
    """
    import tensorflow_datasets as tfds

    data_dir, manual_dir = (x and os.path.expanduser(x) for x in (data_dir, manual_dir))
    builder = _prepared_builder(name, data_dir, manual_dir, download)
    features = dict(builder.info.features)
    if not isinstance(features.get("image"), tfds.features.Image):
        raise ValueError(
            f"{name}: the data set must have a feature 'image'; got {sorted(features)}"
        )
    if features["image"].np_dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"{name}: images must have 8 or 16 bits a channel; "
            f"got {np.dtype(features['image'].np_dtype)}"
        )
    height, width, channels = features["image"].shape
    channels = {2: 1, 4: 3}.get(channels, channels)  # without the transparency
    shape = (height, width, channels)
    if image_size is not None:
        shape = (image_size, image_size, channels)
    if None in shape:
        raise ValueError(f"{name}: images differ in size; give image_size and resize")
    labels = features.get("label")
    if isinstance(labels, tfds.features.ClassLabel):
        label_names = tuple(labels.names)
    else:
        label_names = ()
    decoders = {"image": tfds.decode.SkipDecoding()}  # `decode` is stricter
    try:
        records = builder.as_data_source(split, decoders=decoders)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{name}: split must be made of {sorted(builder.info.splits)}; "
            f"got {split!r}"
        ) from error
    return TfdsSource(
        records,
        name=f"{name}/{split}",
        image_shape=shape,
        label_names=label_names,
        resize=resize,
        background=background,
    )


def load_tfds(name: str, *, progress: bool = True, **kwargs: Any) -> ImageArrays:
    """All images of a split, in memory.

    Args:
        name: as for `open_tfds`.
        progress: whether to show a bar if it takes a while.
        kwargs: what else `open_tfds` takes.

    Returns:
        Images (n, h, w, c) uint8, and labels.

    Raises:
        ValueError: as `open_tfds`, and naming all images that cannot be used.
    """
    return read_all(open_tfds(name, **kwargs), progress=progress)


def _prepared_builder(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    manual_dir: str | os.PathLike[str] | None,
    download: bool,
) -> Any:
    """A builder whose data are on disk, prepared by our own builder or a stock one."""
    with _quiet():
        own = _own_builder(name, data_dir, manual_dir)
        if own is not None and _is_readable(own):
            return own
        # An unprepared stock builder asks the network about itself: not for nothing.
        if own is None or (own.data_path.parent.parent / name).exists():
            stock = _stock_builder(name, data_dir)
            if _is_readable(stock):
                return stock
    builder = own or stock
    if builder.is_prepared():
        raise ValueError(
            f"{name}: the data must be prepared as {FORMAT} to be read without "
            f"TensorFlow; {builder.data_path} has {builder.info.file_format.value}: "
            "give another data_dir"
        )
    if not download:
        raise ValueError(
            f"{name}: the data must be prepared unless download is on; "
            f"found none in {builder.data_path}"
        )
    if own is None:
        if importlib.util.find_spec("tensorflow") is None:
            raise ValueError(
                f"{name}: the stock builder needs TensorFlow to prepare the data, "
                "once: pip install 'ddpm_jax[tensorflow]'"
            )
        with _quiet():
            builder = _stock_builder(name, data_dir, file_format=FORMAT)
    try:
        _prepare(name, builder, manual_dir, own is not None)
    except ValueError:
        # Another process may have prepared the data meanwhile.
        with _quiet():
            builder = _own_builder(name, data_dir, manual_dir)
            builder = builder or _stock_builder(name, data_dir, file_format=FORMAT)
        if not _is_readable(builder):
            raise
    return builder


def _own_builder(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    manual_dir: str | os.PathLike[str] | None,
) -> Any:
    """This package's builder of a stock data set; None if it has none."""
    from ddpm_jax.data.builders.cifar10 import Cifar10
    from ddpm_jax.data.builders.mnist import FashionMnist, Mnist

    builders = {"cifar10": Cifar10, "mnist": Mnist, "fashion_mnist": FashionMnist}
    if name not in builders:
        return None
    return builders[name](
        data_dir=data_dir,
        file_format=FORMAT,
        manual_dir=Path(manual_dir) if manual_dir else None,
    )


def _stock_builder(name: str, data_dir: Any, **kwargs: Any) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=data_dir, **kwargs)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(_unknown(name, str(error))) from error
    except (ValueError, AssertionError) as error:  # how it is spelt; config; version
        raise ValueError(f"{name}: {_first_line(error)}") from error


def _prepare(
    name: str,
    builder: Any,
    manual_dir: str | os.PathLike[str] | None,
    is_own: bool,
) -> None:
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(
        manual_dir=manual_dir,
        try_download_gcs=False,  # what is there is in a format without random access
        force_checksums_validation=is_own,
    )
    try:
        builder.download_and_prepare(download_config=config)
    except Exception as error:  # network, disk, checksums, damaged files
        hint = "" if manual_dir else "; manual_dir takes files that are on disk already"
        raise ValueError(
            f"{name}: the data could not be prepared: {_first_line(error)}{hint}"
        ) from error


def _is_readable(builder: Any) -> bool:
    formats = builder.info.available_file_formats()
    return builder.is_prepared() and FORMAT in {f.value for f in formats}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _unknown(name: str, message: str) -> str:
    """One line from TensorFlow Datasets' page-long one, which lists every name."""
    known = re.findall(r"^\s*- (\w+)$", message, re.MULTILINE)
    close = difflib.get_close_matches(name.split("/")[0].split(":")[0], known)
    hint = f"; the nearest are {', '.join(close)}" if close else ""
    return f"{name}: TensorFlow Datasets has no such data set{hint}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that data which are yet to be prepared are not there."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
