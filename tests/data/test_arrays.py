"""What `ImageArrays` accepts, and what it says of the rest."""

import numpy as np
import pytest

from ddpm_jax.data import ImageArrays, num_bytes, read_all

IMAGES = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3, 1)
LABELS = np.array([0, 1, 2, 1, 0], np.int32)
NAMES = ("a", "b", "c")


def test_properties():
    arrays = ImageArrays(images=IMAGES, labels=LABELS, label_names=NAMES)
    assert arrays.num_examples == len(arrays) == 5
    assert arrays.image_shape == (2, 3, 1)
    assert arrays.num_classes == 3
    assert num_bytes(arrays) == IMAGES.nbytes
    assert ImageArrays(images=IMAGES).num_classes is None


def test_arrays_are_a_source_of_themselves():
    arrays = ImageArrays(images=IMAGES, labels=LABELS, label_names=NAMES, name="five")
    copy = read_all(arrays, progress=False)
    np.testing.assert_array_equal(copy.images, IMAGES)
    np.testing.assert_array_equal(copy.labels, LABELS)
    assert (copy.name, copy.label_names) == ("five", NAMES)
    assert read_all(ImageArrays(images=IMAGES)).labels is None


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (dict(images=IMAGES.astype(np.float32)), "images must be uint8.*float32"),
        (
            dict(images=IMAGES[..., 0]),
            r"\(n, h, w, c\); got uint8 of shape \(5, 2, 3\)",
        ),
        (dict(images=IMAGES[:0]), "at least one image"),
        (dict(labels=LABELS.astype(np.int64)), "labels must be int32.*int64"),
        (dict(labels=LABELS[:4]), r"shape \(5,\).*got int32 of shape \(4,\)"),
        (dict(label_names=("a", "b")), "the 2 label names; got labels from 0 to 2"),
        (dict(labels=LABELS - 1), "got labels from -1 to 1"),
        (dict(labels=None), "label names without labels"),
    ],
)
def test_bad_arrays_are_refused(bad, message):
    good = dict(images=IMAGES, labels=LABELS, label_names=NAMES, name="five")
    with pytest.raises(ValueError, match="^five: .*" + message) as error:
        ImageArrays(**{**good, **bad})
    assert "\n" not in str(error.value)
