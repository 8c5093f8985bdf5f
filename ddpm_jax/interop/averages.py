"""Which tensors of a file are the weights: an average, if there is one.

Training scripts keep averages in many ways: as a second state dict ("ema",
"state_dict_ema", "ema_rate_0.9999"), under a prefix of the first ("ema_model."), under
names that have lost their dots (latent diffusion's "model_ema."), or as a list in the
order of the parameters (torch_ema's and diffusers' "shadow_params").
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ddpm_jax.interop.structure import prefixes_of, unwrapped

# Whatever has a shape; numbers are read of what is chosen alone.
Tensors = dict[str, Any]

_AVERAGES = {"ema", "shadow", "average", "averaged", "averages", "avg", "polyak", "swa"}
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # of a name in any case
_MOST = 100  # networks in a file; each is compared with each average
_RATE = re.compile(r"0?\.9\d*")


class Part(NamedTuple):
    """Tensors that lie together in a file.

    Attributes:
        entry: where they lie, as `['ema']['shadow']`; "" is the file itself.
        tensors: by name; or a list, where only their order says what they are.
    """

    entry: str
    tensors: Tensors | list[Any]


class Choice(NamedTuple):
    """The tensors to take.

    Attributes:
        tensors: by the network's own names.
        entry: where they lie; "" is the file itself.
        others: the entries of the weights that are not taken.
    """

    tensors: Tensors
    entry: str
    others: tuple[str, ...] = ()


class _Network(NamedTuple):
    """A network's tensors, and what stood before their names."""

    tensors: Tensors
    entry: str
    prefix: str


def choose(parts: Sequence[Part]) -> Choice:
    """The likeliest weights: of networks an average, of averages that of most rate.

    Args:
        parts: the likeliest first; at least one.

    Raises:
        ValueError: if an average has no names and does not fit a network that has; if
            there are very many networks; or if one is of a latent diffusion model.
    """
    named = [part for part in parts if isinstance(part.tensors, dict)]
    count = sum(len(prefixes_of(part.tensors)) for part in named)
    if count > _MOST:
        raise ValueError(f"it holds {count} networks: save the one that is meant")
    raw = [network for part in named for network in _networks(part)]
    found, foreign = [*raw], []
    for part in parts:
        if isinstance(part.tensors, list):
            if (raw or not named) and _rank(part.entry)[0] and _has_kernels(part):
                found.append(_by_order(part.entry, part.tensors, raw))
        else:
            for average in _unknown_averages(part):
                known = _by_name(average, raw)
                found += [known] if known else []
                foreign += [] if known else [average.entry]
    if not found and not named:
        raise ValueError(f"the tensors of {parts[0].entry or 'the list'} have no names")
    if not found:
        return Choice(dict(named[0].tensors), named[0].entry)
    found.sort(key=lambda network: _rank(network.entry), reverse=True)
    first, *others = found
    left = [network.entry or "the file's own names" for network in others]
    left += [f"{entry} (of other names)" for entry in foreign if raw]
    return Choice(first.tensors, first.entry, tuple(left))


def _networks(part: Part) -> Iterator[_Network]:
    """The networks among named tensors, one for each prefix of their names."""
    assert isinstance(part.tensors, dict)
    prefixes = prefixes_of(part.tensors)
    for prefix in prefixes:
        tensors = unwrapped(part.tensors, prefix, prefixes)
        entry = f"{part.entry} {prefix}*".strip() if prefix else part.entry
        yield _Network(tensors, entry, prefix)


def _unknown_averages(part: Part) -> Iterator[Part]:
    """The averages among named tensors whose names are those of no network known."""
    assert isinstance(part.tensors, dict)
    prefixes = prefixes_of(part.tensors)
    inner: dict[str, Tensors] = {}
    if prefixes:
        known = {prefix.partition(".")[0] for prefix in prefixes}
        for key, tensor in part.tensors.items():
            head, dot, rest = key.partition(".")
            if dot and head not in known:
                inner.setdefault(head, {})[rest] = tensor
    averages = [
        Part(f"{part.entry} {head}.*".strip(), tensors)
        for head, tensors in inner.items()
        if _rank(head)[0]
    ]
    if not prefixes and _rank(part.entry)[0]:
        averages.append(part)
    yield from filter(_has_kernels, averages)


def _by_name(average: Part, networks: Sequence[_Network]) -> _Network | None:
    """An average under the names of a network whose dots its own names have lost."""
    assert isinstance(average.tensors, dict)
    bare = {_bare(key): tensor for key, tensor in average.tensors.items()}
    fitting = (x for x in networks if len(x.tensors) <= len(bare))
    for network in fitting:
        outer = network.prefix.split(".")[:-1]
        for cut in range(len(outer) + 1):  # it is of a part of what was saved
            inner = _bare("".join(outer[cut:]))
            places = {key: inner + _bare(key) for key in network.tensors}
            if bare.keys() >= set(places.values()):
                tensors = {key: bare[place] for key, place in places.items()}
                return _Network(tensors, average.entry, "")
    return None


def _by_order(entry: str, average: list[Any], networks: Sequence[_Network]) -> _Network:
    """An average without names under those of a network of the same shapes."""
    shapes = [tuple(tensor.shape) for tensor in average]
    for network in networks:
        if shapes == [tuple(tensor.shape) for tensor in network.tensors.values()]:
            tensors = dict(zip(network.tensors, average, strict=True))
            return _Network(tensors, entry, "")
    raise ValueError(
        f"{entry} is an average of {len(shapes)} tensors without names, as "
        "torch_ema and diffusers' EMAModel.state_dict() have it, and the file has no "
        "state dict of the same shapes to name them: copy the average into the model "
        "(copy_to) and save that"
    )


def _has_kernels(part: Part) -> bool:
    tensors = part.tensors
    values = list(tensors.values()) if isinstance(tensors, dict) else tensors
    return any(len(tensor.shape) > 1 for tensor in values)


def _bare(name: str) -> str:
    return re.sub(r"[\W_]", "", name)


def _rank(entry: str) -> tuple[int, float]:
    """(how many of an entry's names say that it is an average, its rate); sorts."""
    names = re.split(r"[\[\]. ]+", _RATE.sub(" ", entry))
    count = sum(
        any(word.lower() in _AVERAGES for word in _WORD.findall(name)) for name in names
    )
    rates = map(float, _RATE.findall(entry)) if count else ()
    return count, max(rates, default=0.0)
