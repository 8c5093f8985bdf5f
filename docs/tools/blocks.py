"""The fenced blocks of a Markdown file, with what its source says of running them.

An HTML comment right above a fence is not shown, and says:

    <!-- train -->, <!-- test -->     the README's two commands, which .ci/run reads
    <!-- not run: needs a cluster --> why the block is only parsed
    <!-- first: ... -->               Python to run before: a reader's names and files
"""

import dataclasses
import pathlib
import re

RUN = ("bash", "python")
SHOWN = ("bibtex", "text")  # languages of what nobody runs
_BLOCK = re.compile(
    r"^(?:<!--\s*(?P<mark>[^\n]*?(?:\n(?:(?!-->).)*?)?)\s*-->\n)?"
    r"^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```[ ]*$",
    re.M | re.S,
)
_INDENTED = re.compile(r"^\n    +(?:\$ |python|pip |ddpm-)", re.M)


@dataclasses.dataclass(frozen=True)
class Block:
    """One fenced block."""

    file: str
    line: int  # of its first line of code, from 1
    language: str
    code: str
    mark: str  # the comment above it

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.file}:{self.line}"

    @property
    def not_run(self) -> bool:
        """Whether it is only parsed."""
        return self.mark.startswith("not run:") or self.mark == "test"

    @property
    def before(self) -> str:
        """Python to run first."""
        first, _, rest = self.mark.partition(":")
        return rest.strip("\n") if first == "first" else ""


def blocks(path: pathlib.Path, root: pathlib.Path) -> list[Block]:
    """All blocks of a file.

    Raises:
        ValueError: if a block has another language, or a comment without a meaning, or
            is indented, and so would be passed over.
    """
    text, name = path.read_text(), str(path.relative_to(root))
    outside = _BLOCK.sub("", text)
    if "```" in outside or _INDENTED.search(outside):
        raise ValueError(f"{name}: a block must be fenced, from the margin on")
    found = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        block = Block(name, line, match["language"], match["code"], match["mark"] or "")
        if block.language not in (*RUN, *SHOWN):
            raise ValueError(
                f"{block.place}: the language must be one of {', '.join(RUN + SHOWN)}; "
                f"got {block.language or 'none'}"
            )
        known = r"train|test|not run: \S.*|first:\s.*"
        if block.mark and not re.fullmatch(known, block.mark, re.S):
            raise ValueError(f"{block.place}: no meaning: <!-- {block.mark} -->")
        found.append(block)
    return found
