"""Looks through a folder of images before a run does.

    python -m ddpm_jax.data check FOLDER

decodes every image as a run would, prints the classes, the sizes, what is passed over
and every image that cannot be used, and ends with exit code 1 if there are any.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's log; errors are raised

import collections
import concurrent.futures
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tqdm import tqdm

from ddpm_jax.command import one_line_errors, parse_call
from ddpm_jax.data.listing import Listing, list_images
from ddpm_jax.data.pixels import check_shape, decode, fit
from ddpm_jax.streams import outlive_readers

SIZES = 5  # of the most frequent sizes, how many are printed


def check(
    folder: Annotated[Path, tyro.conf.Positional],
    *,
    image_size: int | None = None,
    resize: bool = False,
) -> None:
    """Reads every image of a folder and says which cannot be used.

    Args:
        folder: as --data.path of a run; its sub-folders are classes.
        image_size: that a run is to have; None accepts any.
        resize: whether that run crops and scales images of other sizes.
    """
    if image_size is not None:
        check_shape((image_size, image_size, 3))
    folder = folder.expanduser()
    found = list_images(folder)

    def look(file: str) -> tuple[str | None, str | None]:
        """(size, None), or (None, what is wrong)."""
        try:
            picture = decode(folder / file, str(folder / file))
            if image_size is not None:
                shape = (image_size, image_size, 3)
                fit(picture, str(folder / file), shape=shape, resize=resize)
        except ValueError as error:
            return None, str(error)
        return f"{picture.width}x{picture.height}", None

    # Decoding lets go of the interpreter's lock, so threads share the work.
    with (
        warnings.catch_warnings(record=True) as warned,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        warnings.simplefilter("always")
        total = len(found.files)
        seen = list(tqdm(pool.map(look, found.files), total=total, delay=1.0))
    for line in _report(found, [size for size, _ in seen if size is not None]):
        print(line)
    for text, count in collections.Counter(str(w.message) for w in warned).items():
        print(f"{count:,} times: {text}")
    bad = [problem for _, problem in seen if problem is not None]
    print(*bad, sep="\n", end="\n" * bool(bad))
    if bad:
        raise ValueError(f"{folder}: {len(bad):,} of {total:,} images cannot be used")
    print(f"all {total:,} images can be used")


def _report(found: Listing, sizes: list[str]) -> list[str]:
    lines = [f"{len(found.files):,} images"]
    if found.labels is not None:
        counts = np.bincount(found.labels, minlength=len(found.label_names))
        lines = [f"{lines[0]}, {len(counts)} classes"]
        lines += [
            f"  label {label}: {name}, {count:,} images"
            for label, (name, count) in enumerate(
                zip(found.label_names, counts, strict=True)
            )
        ]
    frequent = collections.Counter(sizes).most_common()
    shown = ", ".join(f"{count:,} of {size}" for size, count in frequent[:SIZES])
    others = len(frequent) - SIZES
    more = f", and {others:,} other sizes" if others > 0 else ""
    return [*lines, *found.notes, *([f"sizes: {shown}{more}"] * bool(frequent))]


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line, or these arguments in its place."""
    call = parse_call(
        {"check": check},
        prog="python -m ddpm_jax.data",
        description="Images before a run.",
        args=arguments,
    )
    call()


if __name__ == "__main__":
    with one_line_errors():
        outlive_readers()
        main()
