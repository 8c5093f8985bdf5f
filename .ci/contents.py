"""Compares an sdist and a wheel with the tree: nothing is missing, nothing besides.

python .ci/contents.py DIST
"""

import pathlib
import subprocess
import sys
import tarfile
import zipfile

METADATA = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
# What the program reads at run time, and the promise to type checkers.
NEEDED = (
    "ddpm_jax/py.typed",
    "ddpm_jax/data/digits.npz",
    "ddpm_jax/evaluation/classifier/digits.npz",
    "ddpm_jax/configs/digits.py",
)


def tree() -> set[str]:
    """The files of the checkout that git tracks, or would."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {
        name
        for name in listed.split("\0")
        if pathlib.Path(name).is_file() and not name.startswith(".venv")
    }


def in_wheel(files: set[str], metadata: str) -> set[str]:
    """What of the tree a wheel holds, and where."""
    inside = {name for name in files if name.startswith("ddpm_jax/")}
    inside |= {f"ddpm_jax/{name}" for name in files if name.startswith("configs/")}
    return inside | {f"{metadata}/{name}" for name in METADATA}


def compare(archive: pathlib.Path, found: set[str], wanted: set[str]) -> None:
    """Raises SystemExit with the first names of each difference."""
    for what, names in (("lacks", wanted - found), ("also has", found - wanted)):
        if names:
            sys.exit(f"{archive.name} {what} {', '.join(sorted(names)[:10])}")
    print(f"{archive.name}: {len(found)} files, {archive.stat().st_size / 1e6:.1f} MB")


def main(dist: pathlib.Path) -> None:
    """Checks the one sdist and the one wheel of the folder."""
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    files, stem = tree(), sdist.name.removesuffix(".tar.gz")
    with tarfile.open(sdist) as archive:
        found = {x.removeprefix(f"{stem}/") for x in archive.getnames()}
    compare(sdist, found, files | {"PKG-INFO"})
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
    wanted = in_wheel(files, f"{stem}.dist-info")
    assert wanted >= set(NEEDED), set(NEEDED) - wanted
    compare(wheel, found, wanted)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
