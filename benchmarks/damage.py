"""A harm to a checkpoint is noticed and said, or changes nothing that is read.

    python benchmarks/damage.py

Trains a small run, then harms a copy of its checkpoints: each file of the newest one
and the small ones of the oldest (a flipped bit, truncated, deleted, zeroed, replaced by
that of another step), and whole folders (exchanged, renamed, copied, linked). After
each, what `load` and a resumed run read is compared with what was saved: bit for bit.
"""

import argparse
import collections
import dataclasses
import functools
import pathlib
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from measure import write

import ddpm_jax
from ddpm_jax.command import read_config
from ddpm_jax.training import checkpoints, loop
from ddpm_jax.training.setup import make_update

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = pathlib.Path(__file__).parent / "results"
STEPS = (2, 4, 6)
OLDEST, _, NEWEST = STEPS
SMALL = 4096  # bytes; the oldest step's files up to this size are harmed too

Harm = Callable[[pathlib.Path], Any]


def smoke(seed: int):
    """The config of the small run."""
    config = read_config(ROOT / "configs" / "smoke.py")
    train = dataclasses.replace(
        config.train, num_steps=NEWEST, checkpoint_every=2, keep_latest=3, seed=seed
    )
    sample = dataclasses.replace(config.sample, num=4, steps=2)
    return dataclasses.replace(config, train=train, sample=sample)


def files(run: pathlib.Path, step: int) -> list[pathlib.Path]:
    """All files of a checkpoint, as paths below the run."""
    place = run / "checkpoints" / str(step)
    return sorted(x.relative_to(run) for x in place.rglob("*") if x.is_file())


def single(rng: random.Random, run: pathlib.Path) -> Iterator[tuple[str, Harm]]:
    """(name, harm) of every damage to one file."""
    small = [x for x in files(run, OLDEST) if (run / x).stat().st_size <= SMALL]
    beside = [x.relative_to(run) for x in (run / "checkpoints").glob("*.json")]
    for path in [*files(run, NEWEST), *small, *beside]:
        content = (run / path).read_bytes()
        bit = rng.randrange(8 * len(content))
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"flip {path}", _writes(path, bytes(flipped))
        yield f"truncate {path}", _writes(path, content[: rng.randrange(len(content))])
        yield f"zero {path}", _writes(path, bytes(len(content)))
        yield f"delete {path}", functools.partial(_delete, path)
        yield f"replace {path}", _writes(path, _another(run, path).read_bytes())


def _delete(path: pathlib.Path, where: pathlib.Path) -> None:
    (where / path).unlink()


def _writes(path: pathlib.Path, content: bytes) -> Harm:
    return lambda where: (where / path).write_bytes(content)


def _another(run: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    """The same file of another step; or, where none has it, another file."""
    for step in STEPS:
        other = pathlib.Path("checkpoints", str(step), *path.parts[2:])
        if other != path and (run / other).is_file():
            return run / other
    return run / next(x for x in files(run, OLDEST) if x != path)


def folders(other: pathlib.Path) -> dict[str, Harm]:
    """Harms to whole folders; `other` is a run of the same steps."""

    def at(change):
        return lambda where: change(where / "checkpoints")

    def swap(a: str, b: str):
        return at(lambda x: _exchange(x / a, x / b))

    harms: dict[str, Harm] = {}
    for item in ("", "/ema", "/state", "/config", "/metrics", "/sha256.json"):
        for old in (2, 4):
            harms[f"exchange 6{item} and {old}{item}"] = swap(
                f"6{item}", f"{old}{item}"
            )
        harms[f"6{item} of another run"] = at(
            lambda x, item=item: _replace(
                x / f"6{item}", other / f"checkpoints/6{item}"
            )
        )
        if item and item != "/sha256.json":
            harms[f"delete 6{item}"] = at(lambda x, i=item: shutil.rmtree(x / f"6{i}"))
            harms[f"link 6{item} to 4{item}"] = at(
                lambda x, i=item: _link(x / f"6{i}", x / f"4{i}")
            )
    for old in STEPS:
        harms[f"rename {old} to 8"] = at(lambda x, o=old: (x / f"{o}").rename(x / "8"))
        harms[f"rename {old} to 0"] = at(lambda x, o=old: (x / f"{o}").rename(x / "0"))
        harms[f"copy {old} to 8"] = at(lambda x, o=old: _replace(x / "8", x / f"{o}"))
        harms[f"copy {old} to 006"] = at(
            lambda x, o=old: _replace(x / "006", x / f"{o}")
        )
        harms[f"link 8 to {old}"] = at(lambda x, o=old: _link(x / "8", x / f"{o}"))
        harms[f"{old} lies elsewhere"] = at(
            lambda x, o=old: _link(x / f"{o}", (x / f"{o}").rename(x.parent / "moved"))
        )
        harms[f"empty {old}"] = at(lambda x, o=old: _replace(x / f"{o}", None))
    harms["6 is 2 but for its sums"] = at(
        lambda x: shutil.copytree(
            x / "2", x / "6", ignore=lambda *_: ["sha256.json"], dirs_exist_ok=True
        )
    )
    harms["run.json of another run"] = at(
        lambda x: shutil.copy(other / "checkpoints" / "run.json", x / "run.json")
    )
    return harms


def _exchange(a: pathlib.Path, b: pathlib.Path) -> None:
    between = a.with_name("between")
    a.rename(between)
    b.rename(a)
    between.rename(b)


def _replace(place: pathlib.Path, source: pathlib.Path | None) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    if source is None:
        place.mkdir()
    elif source.is_dir():
        shutil.copytree(source, place)
    else:
        shutil.copy(source, place)


def _link(place: pathlib.Path, target: pathlib.Path) -> None:
    if place.exists():
        shutil.rmtree(place)
    place.symlink_to(target)


def read_loaded(run: pathlib.Path) -> tuple[int, list[np.ndarray], list[str]]:
    """(step, arrays, what was said) of `load`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = ddpm_jax.load(run)
    return model.step, arrays(model.params), [str(x.message) for x in caught]


def read_resumed(target, run: pathlib.Path) -> tuple[int, list[np.ndarray], list[str]]:
    """The same of what a run does that goes on."""
    place = run / "checkpoints"
    said = checkpoints.set_aside(place)
    with checkpoints.open_checkpoints(place, keep_best=1) as manager:
        step = checkpoints.latest_step(manager)
        assert step is not None
        checkpoints.restore_config(manager, step)
        state = checkpoints.restore_state(manager, step, target)
    return step, arrays(state), said


def arrays(tree) -> list[np.ndarray]:
    """The leaves as NumPy has them."""
    key = jax.dtypes.prng_key
    return [
        np.asarray(jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, key) else x)
        for x in jax.tree.leaves(tree)
    ]


def verdict(read, run: pathlib.Path, saved: dict[int, list[np.ndarray]]) -> str:
    """What came of reading a harmed run; "fault: ..." where something is wrong."""
    try:
        step, found, said = read(run)
    except (checkpoints.CheckpointError, FileNotFoundError) as error:
        return "refused" if str(run) in str(error) else f"fault: unnamed: {error}"
    except Exception as error:
        return f"fault: {type(error).__name__}: {error}"
    same = all(np.array_equal(a, b) for a, b in zip(found, saved[step], strict=True))
    if not same:
        return f"fault: other arrays under step {step}"
    if said and all(str(run) in line for line in said):
        return "said"
    return "no effect" if step == NEWEST and not said else f"fault: step {step}, {said}"


def main() -> None:
    """Harms, reads, counts; exit code 1 where a harm passed unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS / "damage.json")
    options = parser.parse_args()
    counts: dict[str, collections.Counter] = collections.defaultdict(
        collections.Counter
    )
    faults = []
    with tempfile.TemporaryDirectory() as scratch:
        run, other = pathlib.Path(scratch, "run"), pathlib.Path(scratch, "other")
        loop.run(smoke(0), run)
        loop.run(smoke(1), other)
        shapes = jax.eval_shape(make_update(smoke(0))[1])
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = checkpoints.abstract(shapes, jax.tree.map(lambda _: device, shapes))
        resumed = functools.partial(read_resumed, target)
        saved: dict[str, dict] = {"load": {}, "resume": {}}
        with checkpoints.open_checkpoints(
            run / "checkpoints", read_only=True
        ) as manager:
            for step in STEPS:
                state = checkpoints.restore_state(manager, step, target)
                saved["resume"][step] = arrays(state)
                saved["load"][step] = arrays(state.ema_params)
        readers = {"load": read_loaded, "resume": resumed}
        harms = [*single(random.Random(options.seed), run), *folders(other).items()]
        for name, harm in harms:
            kind = name.split()[0] if "/" in name.split()[1] else "folder"
            for reader, read in readers.items():
                harmed = pathlib.Path(scratch, "harmed")
                shutil.copytree(run, harmed)
                harm(harmed)
                before = content(harmed)
                found = verdict(read, harmed, saved[reader])
                if before != content(harmed):
                    found = "fault: files were lost"
                if found.startswith("fault"):
                    faults.append(f"{name}, {reader}: {found}")
                    print(faults[-1], flush=True)
                counts[f"{kind}, {reader}"][found.split(":")[0]] += 1
                shutil.rmtree(harmed)
    result = {
        "damages": len(harms),
        "of single files": sum("checkpoints/" in name for name, _ in harms),
        "came of them": {kind: dict(found) for kind, found in sorted(counts.items())},
        "faults": faults,
    }
    write(options.out, result)
    print(f"{len(harms)} damages, {len(faults)} faults")
    sys.exit(1 if faults else 0)


def content(run: pathlib.Path) -> collections.Counter:
    """The files and what they hold, whatever they are called."""
    found = (x for x in run.rglob("*") if x.is_file())
    return collections.Counter(hash(x.read_bytes()) for x in found)


if __name__ == "__main__":
    main()
