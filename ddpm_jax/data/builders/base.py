"""What the builders share: where the files come from, and PNG without TensorFlow."""

import io
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


class ImageBuilder(tfds.core.GeneratorBasedBuilder):
    """Labelled images of one size, from files of a fixed name.

    Args:
        manual_dir: a directory that has the files; None downloads them, and checks
            them against the checksums that TensorFlow Datasets publishes.
    """

    HOMEPAGE = ""
    DESCRIPTION = ""
    SHAPE: tuple[int, int, int]
    LABEL_NAMES: tuple[str, ...]
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, manual_dir: Path | None = None, **kwargs):
        self._manual_dir = manual_dir
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=self.DESCRIPTION,
            homepage=self.HOMEPAGE,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=self.SHAPE, encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(names=list(self.LABEL_NAMES)),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,  # keep the published order
        )

    def fetch(
        self, dl_manager: tfds.download.DownloadManager, base_url: str, names: list[str]
    ) -> list[Path]:
        """The files of these names: those of `manual_dir`, or else downloads.

        Args:
            dl_manager: TFDS's, which downloads.
            base_url: what stands before the names there.
            names: of the files.

        Raises:
            FileNotFoundError: if `manual_dir` lacks one.
        """
        if self._manual_dir is None:
            urls = [base_url + name for name in names]
            return [Path(path) for path in dl_manager.download(urls)]
        paths = [self._manual_dir / name for name in names]
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path}: {self.name} is prepared from {', '.join(names)}; "
                    "found no such file"
                )
        return paths


def png(image: np.ndarray) -> bytes:
    """A uint8 image (h, w) or (h, w, 3) as a PNG file: bytes need no TensorFlow."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()
