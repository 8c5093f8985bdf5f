"""What others wrote, as it may be shown: one line, and nothing that drives a terminal.

File names, tensors' names and other libraries' messages can hold escape sequences, line
breaks and megabytes.
"""

import pathlib
from collections.abc import Iterable


def printable(text: str, most: int | None = None) -> str:
    """The text on one line, what cannot be printed escaped, its middle cut if long.

    Args:
        text: anything.
        most: characters that are kept; None = all.
    """
    line = " ".join(_cut(text, most).split())
    return _cut(
        "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode() for c in line
        ),
        most,
    )


def reason(error: BaseException, most: int = 200) -> str:
    """What an exception says, or its kind where it says nothing."""
    return printable(str(error), most) or type(error).__name__


def cause(error: BaseException | None) -> BaseException | None:
    """The error to raise another from; None where its words would drive a terminal.

    A traceback shows what an error was raised from as it is.
    """
    found = error
    while error is not None:
        if any(not (c.isprintable() or c in "\n\t") for c in str(error)):
            return None
        error = error.__cause__ or error.__context__
    return found


def some(names: Iterable[str], most: int = 20) -> str:
    """The names with commas between them; of very many the first, and how many more."""
    names = list(names)
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def damaged(path: pathlib.Path, kind: str, error: BaseException) -> ValueError:
    """What to raise where reading `path` as `kind` has failed in any way."""
    return ValueError(f"{path} is not a whole {kind}: {reason(error)}")


def _cut(text: str, most: int | None) -> str:
    """The text, or its two ends."""
    if most is None or len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}...{text[-half:]}"
