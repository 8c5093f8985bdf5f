"""What an evaluation says: a table, its notes, and all of its protocol as JSON."""

import hashlib
import importlib.metadata
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpm_jax.evaluation.features import FeatureNetwork
from ddpm_jax.evaluation.measure import BETTER, Value
from ddpm_jax.evaluation.protocols import Protocol
from ddpm_jax.files import whole_file

# Of one recipe trained with several seeds, FID's standard deviation over its mean
# (Karras et al. 2024 give the spread of their runs; others are no smaller).
TRAINING_SPREAD = 0.013
BITS = "bits_per_dim"
FRECHET = {"fid", "fd", "sfid", "fd_infinity"}
VERSIONS = ("ddpm_jax", "jax", "jaxlib", "flax", "numpy", "pillow")


class Row(NamedTuple):
    """One metric over all sets of samples that were measured."""

    name: str
    shown: str  # in the table
    mean: float
    spread: float  # standard deviation over sets; of one set, the metric's own; NaN
    values: tuple[float, ...]
    better: str  # "lower", "higher" or "near 1"


def summarise(name: str, label: str, values: Sequence[Value]) -> Row:
    """The row of a metric that was measured on one set of samples or on several."""
    figures = [x.value for x in values]
    spread = float(np.std(figures, ddof=1)) if len(values) > 1 else values[0].spread
    better = BETTER.get(name, "lower")
    return Row(name, label, float(np.mean(figures)), spread, tuple(figures), better)


def shown(name: str, distance: str) -> str:
    """What a table calls a metric; Frechet distances are named after their features."""
    if name in ("fid", "fd"):
        return distance
    if name == "fd_infinity":
        return f"{distance} at infinite n"
    capitals = {"is": "Inception score", "sfid": "sFID", "kid": "KID", "mind": "MIND"}
    return capitals.get(name, name)


def page(record: Mapping[str, Any], rows: Sequence[Row], notes: Sequence[str]) -> str:
    """What a person sees: against what, the table, and the notes."""
    samples, reference = record["samples"], record["reference"]
    source = next(reference[x] for x in ("set", "file", "folder") if x in reference)
    sets = len(samples.get("seeds", [0]))
    head = (
        f"{samples['n']:,} images{f' of each of {sets} seeds' if sets > 1 else ''} "
        f"against {source}, protocol {record['protocol']['name']}, "
        f"{record['seconds']:.0f} s"
    )
    over = f"± over {sets} seeds" if sets > 1 else "±"
    lines = [head, "", f"| metric | value | {over} | better |", "|---|---|---|---|"]
    for row in rows:
        spread = f"{row.spread:.2g}" if math.isfinite(row.spread) else ""
        lines.append(f"| {row.shown} | {row.mean:.5g} | {spread} | {row.better} |")
    return "\n".join([*lines, "", *(f"note: {line}" for line in notes)])


def notes(
    protocol: Protocol,
    rows: Sequence[Row],
    counts: Mapping[str, int | None],
    dimension: int,
    network: FeatureNetwork,
) -> list[str]:
    """What a reader of the figures must know, a line each.

    Args:
        counts: of the samples of a set, and of the images of the reference, by what
            they are called; None where it is not known.
        dimension: of the features whose covariance is compared.
        network: whose features they are.
    """
    found = []
    names = {row.name for row in rows}
    for what, count in counts.items():
        if count is not None and count <= dimension and names & FRECHET:
            found.append(
                f"{count:,} {what} are no more than the {dimension:,} features: their "
                "covariance has not full rank, and the Frechet distance is too large"
            )
    num = counts["samples"]
    if num != protocol.num:
        found.append(
            f"{protocol.name} measures {protocol.num:,} samples, these are {num:,}: "
            "the Frechet distance grows as they get fewer, and recall, density and "
            "coverage move with both numbers"
        )
    if protocol.network != "classifier" and not network.published:
        found.append(
            "the feature network's weights are not the published ones: no published "
            "figure can be compared"
        )
    for row in rows:
        if row.name == "memorisation" and row.mean < 1:
            found.append(
                f"memorisation {row.mean:.3f} is below 1: samples lie nearer to "
                "training images than unseen images do; they are copies, or blurred"
            )
    return found


def compared(rows: Sequence[Row], *, first: bool) -> Row:
    """The row that a published figure is compared with: a Frechet distance, if any.

    Args:
        first: whether the first row is meant, whatever it is.
    """
    plain = [row for row in rows if row.name in ("fid", "fd")]
    return rows[0] if first or not plain else plain[0]


def comparison(row: Row, published: float) -> str:
    """Whether a figure differs from a published one, in a sentence."""
    apart = row.mean / published - 1
    side = "above" if apart > 0 else "below"
    known = math.isfinite(row.spread) and row.mean > 0
    own = row.spread / row.mean / math.sqrt(len(row.values)) if known else 0.0
    limit = math.hypot(TRAINING_SPREAD, own)
    verdict = "more" if abs(apart) > limit else "no more"
    sampling = f"{own:.1%}" if known else "not known"
    return (
        f"{row.shown} {row.mean:.4g} is {abs(apart):.1%} {side} the published "
        f"{published:g}: {verdict} than training seeds ({TRAINING_SPREAD:.1%}) and "
        f"sampling seeds ({sampling}) alone make it differ"
    )


def digest(record: Mapping[str, Any]) -> str:
    """8 digits that differ where anything but the figures does."""
    told = {**record, "metrics": sorted(record["metrics"])}
    text = json.dumps(_plain(told), sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()[:8]


def network_facts(network: FeatureNetwork) -> dict[str, Any]:
    """What a protocol records of a feature network."""
    names = ("name", "checksum", "published", "resize", "size", "input")
    return {name: getattr(network, name) for name in names}


def environment() -> dict[str, Any]:
    """Versions, and the devices."""
    devices = jax.devices()
    kinds = sorted({device.device_kind for device in devices})
    return {
        "versions": {name: _version(name) for name in VERSIONS},
        "device": f"{len(devices)} x {', '.join(kinds)}",
        "processes": jax.process_count(),
    }


def _version(name: str) -> str:
    """Of a checkout that is not installed, unknown."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def write(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    """The record of an evaluation as JSON; what is not finite becomes null.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write((json.dumps(_plain(record), indent=2) + "\n").encode())


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    return int(value) if isinstance(value, np.integer) else str(value)
