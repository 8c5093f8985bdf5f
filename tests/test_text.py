"""What others wrote is shown on one line that drives no terminal."""

import pytest

from ddpm_jax.command import one_line_errors
from ddpm_jax.text import printable, reason, some


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words, größer", "plain words, größer"),
        ("two\nlines\r\n and\ttabs", "two lines and tabs"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\u202ereversed", "\\u202ereversed"),
        ("half a pair \ud800", "half a pair \\ud800"),
    ],
)
def test_what_cannot_be_printed_is_escaped(text, shown):
    assert printable(text) == shown


def test_long_text_keeps_its_ends():
    shown = printable("begin" + "\x1b" * 10**7 + "end", 60)
    assert len(shown) < 70
    assert shown.startswith("begin") and shown.endswith("end")


def test_an_error_without_words_is_its_kind():
    assert reason(MemoryError()) == "MemoryError"


def test_of_many_names_the_first_are_shown():
    assert some("abc") == "a, b, c"
    assert some(map(str, range(30)), 2) == "0, 1, and 28 more"


def test_no_error_line_drives_the_terminal(capsys):
    with pytest.raises(SystemExit), one_line_errors():
        raise ValueError("there is no \x1b]0;owned\x07file\nhere")
    assert capsys.readouterr().err == "error: there is no \\x1b]0;owned\\x07file here\n"
