"""From a protocol to its feature network."""

import pathlib

from ddpm_jax.config import DataConfig
from ddpm_jax.evaluation import dinov2, inception
from ddpm_jax.evaluation.classifier import network as classifier
from ddpm_jax.evaluation.features import FeatureNetwork
from ddpm_jax.evaluation.protocols import Protocol


def load(
    protocol: Protocol, path: pathlib.Path | None, data: DataConfig | None
) -> tuple[FeatureNetwork, str]:
    """The network whose features a protocol compares, and what its distance is called.

    Args:
        path: of its weights; None = the published ones, or the data set's classifier.
        data: the set that is measured; None = it is not known.

    Raises:
        ValueError, OSError, ImportError: if there are no such weights.
    """
    if protocol.network == "classifier":
        network, facts = _classifier(data) if path is None else classifier.load(path)
        return network, f"{facts.data}-FD"
    if protocol.network == "dinov2":
        return dinov2.load(path), "FD-DINOv2"
    resize = protocol.resize or "tf1_bilinear"
    return inception.load(path, resize=resize), "FID"


def _classifier(data: DataConfig | None) -> tuple[FeatureNetwork, classifier.Facts]:
    if data is None or data.source == "given":
        raise ValueError(
            "these images name no data set whose classifier could judge them: give "
            "--features FILE (python -m ddpm_jax.evaluation.classifier makes one), or "
            "another --protocol, such as pytorch-fid"
        )
    return classifier.find(data)
