"""The 8x8 handwritten digits that come with the package (see DIGITS.md)."""

from importlib import resources

import numpy as np

from ddpm_jax.data.arrays import ImageArrays

SPLITS = ("train", "test", "all")


def load_digits(split: str = "train") -> ImageArrays:
    """The digits of `split`: images (n, 8, 8, 1), labels 0..9.

    The 1,797 images come without a split, so the split is this package's: every sixth
    image (index % 6 == 5) is for testing, 299 in all, and 1,498 are left to train on.

    Args:
        split: "train", "test" or "all".

    Returns:
        Images (n, 8, 8, 1) uint8 and labels (n,) int32.

    Raises:
        ValueError: if `split` is none of these.

    Examples:
        >>> from ddpm_jax.data import load_digits
        >>> digits = load_digits("test")
        >>> digits.images.shape, digits.images.dtype, digits.num_classes
        ((299, 8, 8, 1), dtype('uint8'), 10)
    """
    if split not in SPLITS:
        raise ValueError(f"digits: split must be one of {SPLITS}; got {split!r}")
    with (resources.files("ddpm_jax.data") / "digits.npz").open("rb") as file:
        with np.load(file) as arrays:
            levels, labels = arrays["images"], arrays["labels"]
    # The stored grey levels run from 0 to 16; the one tie, v = 8, goes to 128.
    images = np.rint(levels * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    is_test = np.arange(len(images)) % 6 == 5
    keep = {"train": ~is_test, "test": is_test, "all": np.ones_like(is_test)}[split]
    return ImageArrays(
        images=images[keep],
        labels=labels[keep].astype(np.int32),
        label_names=tuple("0123456789"),
        name=f"digits/{split}",
    )
