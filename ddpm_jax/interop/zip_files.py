"""Zip files of weights: what a directory of members claims, checked before it is used.

A zip file says twice how large a member is, and its directory can say anything: that a
member is gigabytes, that two have one name, that one is encrypted. `.npz` and PyTorch's
files are zip files, and both are read from here alone.
"""

import pathlib
import zipfile

from ddpm_jax.text import cause, damaged, printable

_KNOWN = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}


def open_archive(path: pathlib.Path, kind: str) -> zipfile.ZipFile:
    """The zip file, its members' names unique and none of them encrypted.

    Args:
        path: of the file.
        kind: what it should be, to be named in errors.

    Raises:
        ValueError: if it is not a whole zip file, or not one that can be read.
    """
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # of many types: the directory can hold anything
        raise damaged(path, kind, error) from cause(error)
    names, end = set(), path.stat().st_size
    for member in archive.infolist():
        shown = printable(member.filename, 200)
        if member.filename in names:
            raise ValueError(f"{path} holds {shown} twice: which is meant is not known")
        names.add(member.filename)
        if member.header_offset + member.compress_size > end:
            raise ValueError(
                f"{path} is not a whole {kind}: {shown} lies beyond its end"
            )
        if member.flag_bits & 1:
            raise ValueError(f"{path} must not be encrypted; {shown} is")
        if member.compress_type not in _KNOWN:
            raise ValueError(
                f"{path} must be packed by deflate or not at all; {shown} is packed by "
                f"method {member.compress_type}"
            )
    return archive


def check_stored(path: pathlib.Path, member: zipfile.ZipInfo) -> None:
    """Holds that a member's bytes lie in the file as they are.

    Raises:
        ValueError: if they are packed, or fewer than the directory says.
    """
    if member.compress_type != zipfile.ZIP_STORED:
        rule = "be stored as it is, as torch.save does it; it is compressed"
    elif member.compress_size != member.file_size:
        rule = f"have one size; it has {member.file_size} and {member.compress_size}"
    else:
        return
    raise ValueError(f"{path}: {printable(member.filename, 200)} must {rule}")
