"""A set of images held in memory: what every source that fits is turned into."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageArrays:
    """Images of one size as uint8, with a class label each or none at all.

    It is also a random-access source of its examples (see `sources.ImageSource`).

    Raises:
        ValueError: if the arrays are not of the types and shapes stated here, if they
            differ in length, or if a label has no name.
    """

    images: np.ndarray  # (n, h, w, c) uint8 in 0..255
    labels: np.ndarray | None = None  # (n,) int32; None = unlabelled
    label_names: tuple[str, ...] = ()  # one per class, in label order
    name: str = "images"  # for messages and logs
    notes: tuple[str, ...] = ()  # what a person should know of the set, a line each

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise ValueError(
                f"{self.name}: images must be uint8 of shape (n, h, w, c); "
                f"got {self.images.dtype} of shape {self.images.shape}"
            )
        if 0 in self.images.shape:
            raise ValueError(
                f"{self.name}: there must be at least one image and one pixel; "
                f"got shape {self.images.shape}"
            )
        if self.labels is not None:
            _check_labels(self.name, self.labels, len(self.images), self.label_names)
        elif self.label_names:
            raise ValueError(
                f"{self.name}: label names without labels: {self.label_names}"
            )

    def __len__(self) -> int:
        return self.num_examples

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """{"image": (h, w, c) uint8}, and "label" where there are labels."""
        example = {"image": self.images[index]}
        if self.labels is not None:
            example["label"] = self.labels[index]
        return example

    @property
    def num_examples(self) -> int:
        """The number of images n."""
        return self.images.shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(h, w, c)."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    @property
    def num_classes(self) -> int | None:
        """The number of classes; None if the images are unlabelled."""
        return None if self.labels is None else len(self.label_names)


def _check_labels(
    name: str, labels: np.ndarray, num_examples: int, label_names: tuple[str, ...]
) -> None:
    if labels.dtype != np.int32 or labels.shape != (num_examples,):
        raise ValueError(
            f"{name}: labels must be int32 of shape ({num_examples},), one per image; "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(label_names):
        raise ValueError(
            f"{name}: labels must index the {len(label_names)} label names; "
            f"got labels from {low} to {high}"
        )
