"""A draw that is killed goes on; one of another origin starts anew."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tyro

from ddpm_jax.drawing import Draw, Parts, draw_parts

NAN, INF = float("nan"), float("inf")


class Killed(Exception):
    pass


def walk_until(limit, calls):
    """Images whose value is their number; dies when `limit` batches were drawn."""

    def walk(first, count):
        if len(calls) == limit:
            raise Killed
        calls.append(first)
        value = (jnp.arange(first, first + count) / 127.5 - 1)[:, None, None, None]
        yield 1, value * 0
        yield 0, value

    return walk


def test_a_killed_draw_goes_on_with_what_is_missing(tmp_path):
    origin, calls, seen = {"seed": 1}, [], []
    with pytest.raises(Killed):
        draw_parts(Parts(tmp_path / "parts", origin), walk_until(2, calls), 10, 3)
    draw_parts(
        Parts(tmp_path / "parts", origin),
        walk_until(9, calls),
        10,
        3,
        progress=lambda first, index, x: seen.append((first, index)),
    )
    assert calls == [0, 3, 6, 9]
    assert seen == [(6, 1), (6, 0), (9, 1), (9, 0)]
    whole = np.concatenate(list(Parts(tmp_path / "parts", origin).images(4)))
    assert whole.dtype == np.uint8
    np.testing.assert_array_equal(whole.ravel(), np.arange(10))


def test_the_batches_of_another_draw_are_dropped(tmp_path):
    first = Parts(tmp_path / "parts", {"seed": 1})
    draw_parts(first, walk_until(9, []), 4, 2)
    second = Parts(tmp_path / "parts", {"seed": 2})
    assert not second.path(0).exists()
    draw_parts(second, walk_until(9, []), 2, 2)
    second.remove()
    assert not (tmp_path / "parts").exists()


def test_what_is_not_of_a_draw_stays(tmp_path):
    chapter = tmp_path / "unfinished" / "chapter.txt"
    chapter.parent.mkdir()
    chapter.write_text("call me Ishmael")
    with pytest.raises(ValueError, match="unfinished batches go, and holds other"):
        Parts(chapter.parent, {"seed": 1})
    assert [path.name for path in chapter.parent.iterdir()] == ["chapter.txt"]

    chapter.unlink()
    parts = Parts(chapter.parent, {"seed": 1})  # an empty one does
    chapter.write_text("some years ago")
    parts = Parts(chapter.parent, {"seed": 2})  # and one that holds a draw
    draw_parts(parts, walk_until(9, []), 4, 2)
    parts.remove()
    assert [path.name for path in chapter.parent.iterdir()] == ["chapter.txt"]


def test_a_batch_is_put_whole_or_not_at_all(tmp_path, monkeypatch):
    parts = Parts(tmp_path, {"seed": 1})

    def half(file, samples):
        file.write(b"half")
        raise Killed

    monkeypatch.setattr(np, "save", half)
    with pytest.raises(Killed):
        parts.put(0, np.zeros((1, 2, 2, 1), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["draw.json"]


def test_a_label_is_that_of_an_image_wherever_it_is_drawn():
    draw = Draw(label=(0, 1, 2))
    np.testing.assert_array_equal(draw.labels(0, 7), [0, 1, 2, 0, 1, 2, 0])
    np.testing.assert_array_equal(draw.labels(4, 3), draw.labels(0, 7)[4:])
    np.testing.assert_array_equal(Draw(label=(3,)).labels(5, 2), [3, 3])
    assert Draw().labels(0, 7) is None
    with pytest.raises(ValueError, match="--label must name one class or more"):
        Draw(label=())


def test_the_command_takes_a_cut():
    for told, value in (("-5.1", -5.1), ("-inf", -np.inf)):
        draw = tyro.cli(Draw, args=["--steps", "9", "--lambda-min", told])
        assert draw.lambda_min == value and draw.spacing is None


@pytest.mark.parametrize(
    ("said", "label"),
    [([], None), (["--label", "cat"], ("cat",)), (["--label", "0", "1"], ("0", "1"))],
)
def test_the_command_takes_labels(said, label):
    draw = tyro.cli(Draw, args=[*said, "--num", "5"])
    assert draw == Draw(num=5, label=label)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("num", x) for x in (0, -1, 2**31)),
        *(("batch_size", x) for x in (0, 2**31)),
        *(("seed", x) for x in (-1, 2**32, 2**63)),
        *(("steps", x) for x in (0, -1)),
        *((x, y) for x in ("eta", "guidance") for y in (NAN, INF, -INF, 1e39)),
        ("label", (2**31,)),
    ],
)
def test_numbers_that_no_draw_can_have_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"^--{name.replace('_', '-')} must be"):
        Draw(**{name: value})


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"label": (1, 2)}, {"eta": 0.5}, {"spacing": "karras", "steps": 5}],
)
def test_the_origin_tells_two_draws_apart(other):
    draw = Draw(label=(1, 2, 3), steps=4)
    assert draw.origin() != dataclasses.replace(draw, **other).origin()
