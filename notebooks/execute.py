"""Runs the notebooks from top to bottom, in order, in a temporary copy.

    python notebooks/execute.py                 all of them
    python notebooks/execute.py --write 01 04   these two, and stores their outputs

Ends with one line and exit code 1 where a cell fails, or says anything on stderr but a
progress bar. Needs the extra `[notebook]`.
"""

import argparse
import base64
import io
import pathlib
import re
import shutil
import sys
import tempfile
import time
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import (
    CellExecutionError,
    CellTimeoutError,
    DeadKernelError,
)
from PIL import Image

HERE = pathlib.Path(__file__).parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
SECONDS = 900  # a cell may take
BAR = re.compile(r"%\||\dstep/s\b|^\s*$")  # a line of tqdm's, or the blank over it


def main() -> None:
    """Runs, prints the seconds of each, and writes the outputs where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "names", nargs="*", help="beginnings of file names; all if none"
    )
    parser.add_argument("--write", action="store_true", help="store the outputs")
    options = parser.parse_args()
    paths = [
        path
        for path in sorted(HERE.glob("*.ipynb"))
        if not options.names or path.name.startswith(tuple(options.names))
    ]
    if not paths:
        sys.exit(f"no notebook begins with {' or '.join(options.names)}")
    with tempfile.TemporaryDirectory() as directory:
        for path in paths:
            shutil.copy(path, directory)
        for path in paths:
            began = time.perf_counter()
            executed = execute(pathlib.Path(directory) / path.name)
            print(f"{path.name}  {time.perf_counter() - began:.0f} s", flush=True)
            if options.write:
                shrink_pictures(executed)
                nbformat.write(executed, path)


def execute(path: pathlib.Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of a fresh kernel, in the folder it lies in.

    Exits with a line that names the notebook and the cell (counted from 1) at fault.
    """
    notebook = nbformat.read(path, as_version=4)
    at = [0]
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name=KERNEL["name"],
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_start=lambda cell, cell_index: at.__setitem__(0, cell_index),
    )
    try:
        client.execute()
    except CellExecutionError as error:
        fail(path, at[0], f"{error.ename}: {error.evalue}")
    except (CellTimeoutError, DeadKernelError) as error:
        fail(path, at[0], str(error))
    for index, cell in enumerate(notebook.cells):
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [x for x in cell.outputs if not is_bar(path, index, x)]
    # Without what differs between machines: the version, and what an editor adds.
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    return notebook


def is_bar(path: pathlib.Path, index: int, output: Any) -> bool:
    """Whether the output is a progress bar; exits if it is anything else on stderr."""
    if output.get("name") != "stderr":
        return False
    said = [x for x in re.split(r"[\r\n]", output.text) if not BAR.search(x)]
    if said:
        fail(path, index, f"stderr: {said[0]}")
    return True


def shrink_pictures(notebook: nbformat.NotebookNode) -> None:
    """Makes every PNG one of 64 colours: a third of the size, for git's sake."""
    for output in [x for cell in notebook.cells for x in cell.get("outputs", ())]:
        data = output.get("data", {})
        if "image/png" in data:
            picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
            small = io.BytesIO()
            picture.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(
                small, format="PNG", optimize=True
            )
            data["image/png"] = base64.b64encode(small.getvalue()).decode()


def fail(path: pathlib.Path, index: int, what: str) -> None:
    """Ends the program."""
    sys.exit(f"{path.name}, cell {index + 1}: {' '.join(what.split())}")


if __name__ == "__main__":
    main()
