"""metrics.jsonl is a log: what is wrong in it is left out, and never ends a run."""

import json

import pytest

from ddpm_jax.training.report import _resume_lines

LINES = [
    json.dumps({"step": step, "loss": 0.5, "grad_norm": None}).encode()
    for step in (5, 10, 15)
]


def resumed(path, content, first_step=15):
    """(the lines that stay, what was said)."""
    said = []
    path.write_bytes(content)
    _resume_lines(path, first_step, said.append).close()
    return path.read_bytes().splitlines(), said


def test_later_lines_and_half_a_line_go_without_a_word(tmp_path):
    kept, said = resumed(tmp_path / "x", b"\n".join([*LINES, LINES[0][:9]]), 10)
    assert kept == LINES[:2] and said == []


NO_LINES = [b"5", b"null", b"[]", b"", b"\xff", b"\0" * 9, b"[" * 100_000]
NO_STEPS = [b'{"loss": 1}', b'{"step": "5"}', b'{"step": true}', b'{"step": 5.0}']


@pytest.mark.parametrize("line", [*NO_LINES, *NO_STEPS, LINES[0][:9]])
def test_a_line_that_is_none_is_left_out_and_counted(tmp_path, line):
    content = b"\n".join([LINES[0], line, *LINES[1:], b""])
    kept, said = resumed(tmp_path / "x", content)
    assert kept == LINES and len(said) == 1 and said[0].endswith("lines: 1")


def test_no_flipped_bit_ends_a_run(tmp_path):
    content = b"\n".join([*LINES, b""])
    for bit in range(8 * len(content)):
        altered = bytearray(content)
        altered[bit // 8] ^= 1 << bit % 8
        kept, _ = resumed(tmp_path / "x", bytes(altered))
        assert len(set(LINES) & set(kept)) >= 1  # two at most share the bit's newline
        assert all(json.loads(line)["step"] <= 15 for line in kept)
