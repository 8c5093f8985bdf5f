"""A draw that is killed goes on; one of another origin starts anew."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.drawing import Parts, draw_parts


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
