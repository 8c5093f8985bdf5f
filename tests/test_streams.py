"""A program goes on when nobody reads what it prints, and says what it can."""

import os
import subprocess
import sys

import pytest

BEGIN = "import os, sys\nfrom ddpm_jax.streams import outlive_readers\n"
END = "\nopen(sys.argv[1], 'w').write('went on')\n"


def run(tmp_path, code, shell='"$0" -c "$1" "$2"', **environment):
    """What a program prints that goes on after this code; through a shell."""
    done = subprocess.run(
        ["bash", "-c", shell, sys.executable, BEGIN + code + END, tmp_path / "done"],
        capture_output=True,
        env={**os.environ, **environment},
    )
    assert (tmp_path / "done").read_text() == "went on", done.stderr
    assert done.returncode == 0
    return done


PRINTS = """
outlive_readers()
for i in range(20_000):
    print("line", i, flush=i % 7 == 0)
    print("line", i, file=sys.stderr)
for descriptor in (1, 2):
    try:
        os.write(descriptor, b"from C++")
    except OSError as error:
        assert error.errno == 28  # a full disk, of which it is for C++ to make the best
"""


@pytest.mark.parametrize(
    "shell",
    [
        'set -o pipefail; "$0" -c "$1" "$2" | head -1',
        'set -o pipefail; "$0" -c "$1" "$2" 2>&1 | head -1',
        '"$0" -c "$1" "$2" >&-',
        '"$0" -c "$1" "$2" 2>&-',
        '"$0" -c "$1" "$2" >&- 2>&- <&-',
        '"$0" -c "$1" "$2" >/dev/full',
        '"$0" -c "$1" "$2" 2>/dev/full',
    ],
)
def test_a_program_outlives_its_log(tmp_path, shell):
    done = run(tmp_path, PRINTS, shell)
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


def test_a_file_never_gets_the_number_of_a_closed_stream(tmp_path):
    """What C++ writes to stderr would be written into it."""
    code = "outlive_readers(); assert open(sys.argv[1], 'w').fileno() > 2"
    run(tmp_path, code, '"$0" -c "$1" "$2" >&- 2>&-')


def test_a_bar_of_tqdm_outlives_it_too(tmp_path):
    code = (
        "outlive_readers()\nimport tqdm\n"
        "for _ in tqdm.tqdm(range(9), mininterval=0): tqdm.tqdm.write('x')\n"
    )
    for shell in ('"$0" -c "$1" "$2" >&- 2>&-', '"$0" -c "$1" "$2" 2>&1 | head -c1'):
        run(tmp_path, code, f"set -o pipefail; {shell}")


@pytest.mark.parametrize("name", ["Läufe", "\udcff"])
def test_what_the_encoding_lacks_is_escaped(tmp_path, name):
    code = f"outlive_readers(); print({name!a}); print('x', file=sys.stderr)"
    said = run(tmp_path, code, PYTHONIOENCODING="ascii").stdout
    assert said.decode("ascii").strip() == ascii(name).strip("'")
