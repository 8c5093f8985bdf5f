"""Labels go by name: whatever their order, an image keeps its class."""

import pickle

import numpy as np
import pytest

from ddpm_jax.data import ImageArrays, natural_order, relabelled

ARRAYS = ImageArrays(
    images=np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1),
    labels=np.array([0, 1, 2, 2, 1, 0], np.int32),
    label_names=("1", "10", "2"),
    name="six",
    notes=("a note",),
)


class Source:
    """The same images one by one."""

    name, image_shape, label_names = "six", (1, 1, 1), ARRAYS.label_names

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return ARRAYS[index]


@pytest.mark.parametrize(
    ("names", "want"),
    [
        (["10", "2", "1"], ("1", "2", "10")),
        (["img12", "img2", "cat"], ("cat", "img2", "img12")),
        (["01", "1", "001"], ("001", "01", "1")),
        (["b", "a", "B"], ("B", "a", "b")),
        (["2b", "10a", "2a"], ("2a", "2b", "10a")),
        (["x", "3", "x1y2", "x1y10"], ("3", "x", "x1y2", "x1y10")),
    ],
)
def test_numbers_are_ordered_as_numbers(names, want):
    assert natural_order(names) == want
    assert natural_order(reversed(names)) == want


@pytest.mark.parametrize("names", [("1", "2", "10"), ("2", "1", "10")])
@pytest.mark.parametrize("source", [ARRAYS, Source()], ids=["arrays", "source"])
def test_an_image_keeps_its_class_under_another_order(source, names):
    other = relabelled(source, names)
    assert len(other) == 6 and other.label_names == names
    for i in range(6):
        name = ARRAYS.label_names[ARRAYS.labels[i]]
        assert other.label_names[other[i]["label"]] == name
        assert other[i]["label"].dtype == np.int32
        np.testing.assert_array_equal(other[i]["image"], ARRAYS.images[i])
    back = relabelled(other, ARRAYS.label_names)
    assert [int(back[i]["label"]) for i in range(6)] == ARRAYS.labels.tolist()
    assert relabelled(source, source.label_names) is source


def test_a_relabelled_source_goes_to_other_processes():
    other = pickle.loads(pickle.dumps(relabelled(Source(), ("10", "1", "2"))))
    assert other[0]["label"] == 1 and other.image_shape == (1, 1, 1)


@pytest.mark.parametrize("names", [("1", "2"), ("1", "2", "cat"), ("1", "2", "2")])
def test_other_classes_are_refused(names):
    with pytest.raises(ValueError, match="six: the classes must be 1, 2") as error:
        relabelled(ARRAYS, names)
    assert "10" in str(error.value) and "\n" not in str(error.value)
