"""The examples in the docstrings are true."""

import doctest

import pytest
from documented import public_names

EXAMPLES = {
    name.path: name for name in public_names() if ">>>" in (name.docstring or "")
}


@pytest.mark.parametrize("path", EXAMPLES)
def test_an_example_prints_what_it_says(path, tmp_path, monkeypatch):
    name = EXAMPLES[path]
    monkeypatch.chdir(tmp_path)  # where an example may write
    # Nothing but what it imports: as somebody pastes it.
    example = doctest.DocTestParser().get_doctest(
        name.docstring, {}, path, str(name.file), name.line
    )
    said: list[str] = []
    failures, tried = doctest.DocTestRunner().run(example, out=said.append)
    assert tried
    assert not failures, "".join(said)
