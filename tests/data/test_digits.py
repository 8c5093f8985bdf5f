"""The bundled digits: what they contain, and how they are split."""

import numpy as np
import pytest

from ddpm_jax.data import load_digits


def test_counts_shapes_and_names():
    train, test, both = (load_digits(split) for split in ("train", "test", "all"))
    assert train.num_examples == 1498
    assert test.num_examples == 299
    assert both.num_examples == 1797
    for digits in (train, test, both):
        assert digits.image_shape == (8, 8, 1)
        assert digits.num_classes == 10
        assert digits.label_names == tuple("0123456789")


def test_the_labels_are_those_of_the_source():
    """Counts per digit in `optdigits.tes`, from the data set's own documentation."""
    counts = np.bincount(load_digits("all").labels)
    np.testing.assert_array_equal(
        counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    )


def test_the_first_image_is_the_first_line_of_the_source():
    """0,0,5,13,9,1,0,0 / 0,0,13,15,10,15,5,0 / ...: a nought."""
    levels = load_digits("all").images[0, :2, :, 0] * (16 / 255)
    np.testing.assert_array_equal(
        np.round(levels), [[0, 0, 5, 13, 9, 1, 0, 0], [0, 0, 13, 15, 10, 15, 5, 0]]
    )
    assert load_digits("all").labels[0] == 0


def test_grey_levels_fill_the_range_evenly():
    levels = np.unique(load_digits("all").images)
    assert len(levels) == 17 and levels[0] == 0 and levels[-1] == 255
    assert np.all(np.abs(levels - np.linspace(0, 255, 17)) <= 0.5)


def test_the_splits_part_the_whole():
    train, test, both = (load_digits(split) for split in ("train", "test", "all"))

    def rows(digits):
        flat = digits.images.reshape(digits.num_examples, -1)
        return {row.tobytes() for row in np.column_stack([flat, digits.labels])}

    assert not rows(train) & rows(test)
    assert rows(train) | rows(test) == rows(both)
    assert np.all(np.bincount(test.labels) >= 20), "every digit must be tested"
    np.testing.assert_array_equal(test.images[0], both.images[5])


def test_a_wrong_split_is_named():
    with pytest.raises(ValueError, match=r"digits: split must be one of.*'valid'"):
        load_digits("valid")
