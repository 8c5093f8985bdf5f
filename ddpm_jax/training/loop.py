"""A training run, read from top to bottom."""

import contextlib
import dataclasses
import json
import pathlib
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any, NamedTuple

import jax
import numpy as np

from ddpm_jax import build, processes
from ddpm_jax.config import (
    ClipConfig,
    Config,
    OptimConfig,
    differences,
    from_dict,
    to_dict,
)
from ddpm_jax.data.labels import listed, relabelled
from ddpm_jax.data.sources import check_files
from ddpm_jax.evaluation import during
from ddpm_jax.files import whole_file
from ddpm_jax.images import grid, save_png, to_uint8
from ddpm_jax.model import Model
from ddpm_jax.networks import Network
from ddpm_jax.ownership import claimed
from ddpm_jax.profiling import UpdateTrace, check_profile
from ddpm_jax.training import checkpoints, parallel
from ddpm_jax.training.feed import (
    as_source,
    describe,
    given_kind,
    kept_class_names,
    make_feed,
    read_source,
)
from ddpm_jax.training.memory import check_fits
from ddpm_jax.training.report import Report, add_start
from ddpm_jax.training.services import Ending
from ddpm_jax.training.setup import cautions, make_update
from ddpm_jax.training.signals import stop_signals
from ddpm_jax.training.start import Clock, begin
from ddpm_jax.training.trackers import check_installed, open_tracker
from ddpm_jax.training.updates import AHEAD, SKIPS_IN_A_ROW, Updates


class Outcome(NamedTuple):
    """How a run ended."""

    step: int
    stopped_by: signal.Signals | None  # None = the run is complete


def run(
    config: Config,
    workdir: pathlib.Path | str,
    *,
    data: Any = None,
    network: Network | None = None,
    profile: int | None = None,
    began: float | None = None,
) -> Outcome:
    """Trains as `config` says, from the newest checkpoint in `workdir` if there is one.

    Leaves in the workdir: config.json, starts.json (with what it ran from which step),
    metrics.jsonl, checkpoints/ and samples/. Every process of a run calls it; the main
    one writes all but the checkpoints.

    Args:
        config: the experiment.
        workdir: its folder, which is made.
        data: images of one's own, in place of those that the config names: uint8
            (n, h, w, c); a pair of them and of labels (n,), whole numbers from 0 on,
            which are read where `config.data.num_classes` says so; or any source of
            `ddpm_jax.data`. Their size is put into the config.
        network: a network of one's own, in place of the config's U-Net; `load` needs
            the same.
        profile: trace so many steady updates into `workdir`/profile; None = none.
        began: when the process did, by `time.perf_counter`, for the log; None = now.

    Raises:
        ValueError: if the workdir holds a run of another model, a checkpoint cannot be
            read, or the data does not fit the config.
        FloatingPointError: if the loss or the gradient is not finite.
        OSError: if the workdir cannot be written, or another run is using it.
        ImportError: if a library that the config needs is not installed.
    """
    workdir, clock = pathlib.Path(workdir), Clock(began)
    check_profile(profile)
    if network is not None:
        own = dataclasses.replace(config.network, own=type(network).__qualname__)
        config = dataclasses.replace(config, network=own)
    if data is not None:
        data = as_source(data, config.data.class_names)
        config = dataclasses.replace(config, data=given_kind(config.data, data))
    if network is None:
        network = build.make_network(config)
    else:
        build.check_network(network, config)
    if processes.is_main():
        check_installed(config.train.tracker)
    with claimed(workdir, "workdir"):
        return _run(_as_begun(config, workdir), workdir, data, network, profile, clock)


def _run(
    config: Config,
    workdir: pathlib.Path,
    data: Any,
    network: Network,
    profile: int | None,
    clock: Clock,
) -> Outcome:
    """The run itself, in a workdir that is its own."""
    # What is trained: images, network, objective, optimiser.
    train = config.train
    source = processes.main_first(
        "data", lambda: read_source(config.data, build.read_images, data)
    )
    plan = during.plan(config)
    train_step, initial_state = make_update(config, network)

    # Where it is trained.
    abstract_state = jax.eval_shape(initial_state)
    check_fits(abstract_state, fsdp=train.fsdp)
    parallel.check_divisible(train.batch_size, train.accumulate, jax.device_count())
    if train.runner == "pmap":
        runner = parallel.pmap_runner(train_step, abstract_state)
    else:
        mesh = parallel.make_mesh(fsdp=train.fsdp)
        by_hand = train.accumulate > 1 and train.fsdp == 1
        runner = parallel.jit_runner(train_step, mesh, abstract_state, by_hand=by_hand)
    draw, schedule = (
        _grid_drawer(config),
        build.make_schedule(config.diffusion.schedule),
    )

    main = processes.is_main()
    if main:
        description = describe(config.data, source)
        notes = plan.notes
        if train.keep_best:
            notes = (*notes, f"train.keep_best ranks by {plan.best}")
        print(_summary(config, description, abstract_state, workdir, notes), flush=True)
        for line in checkpoints.set_aside(workdir / "checkpoints"):
            print(line, flush=True)
    processes.barrier("checkpoints")
    manager = checkpoints.open_checkpoints(
        workdir / "checkpoints",
        keep_latest=train.keep_latest,
        keep_every=train.keep_every,
        keep_best=train.keep_best,
        rank_by=plan.best,
    )
    with contextlib.ExitStack() as stack:
        # Closed after all else, with the error that has ended the run, if one has.
        tracking = stack.enter_context(contextlib.ExitStack())
        stack.enter_context(manager)
        stop = stack.enter_context(stop_signals())

        # Where it starts: the newest checkpoint, or step 0.
        newest = checkpoints.latest_step(manager)
        newest = processes.agree(-1 if newest is None else newest)
        first_step = max(newest, 0)
        before = None
        if newest >= 0:
            before = _check_same_model(manager, first_step, config, workdir).data
        trace = None
        if profile is not None:
            place, last = workdir / "profile", train.num_steps
            trace = UpdateTrace(place, profile, first=first_step, last=last)
            stack.callback(trace.close)
        if first_step >= train.num_steps:
            if main:
                print(
                    f"the run is complete: step {first_step} of train.num_steps="
                    f"{train.num_steps}; a larger one goes on",
                    flush=True,
                )
            processes.barrier("done")
            return Outcome(first_step, None)
        if newest >= 0 and (own := config.network.own) is not None:
            params = abstract_state.params
            checkpoints.check_shapes(manager, first_step, params, own)
        names = kept_class_names(config.data, source, before)
        if main and names not in (None, source.label_names):
            print(f"labels keep the run's own order: {listed(names)}", flush=True)
        if main and before is None and not config.data.resident:
            check_files(source)  # those held in memory have all been read
        if names is not None:
            source = relabelled(source, names)
            labelled = dataclasses.replace(config.data, class_names=names)
            config = dataclasses.replace(config, data=labelled)
            plan = plan.in_order(names)
        evaluate = during.Evaluator(plan, config, source)
        feed = make_feed(config.data, source)
        clock.ends("data")
        pool = ThreadPoolExecutor()
        # An error is told at once, and not when all is compiled.
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        shapes = (abstract_state, feed.resident)
        first = initial_state if newest < 0 else None
        start = begin(pool, runner, config, network, first, *shapes)
        clock.ends("trace")
        if start.state is None:
            target = checkpoints.abstract(abstract_state, runner.shardings)
            state = checkpoints.restore_state(manager, first_step, target)
            state = runner.from_saved(state)
        else:
            state = runner.take_state(start.state.result()())
        data = runner.place_data(feed.resident)
        step, report = first_step, None
        if main:
            if newest >= 0:
                print(f"resumed from step {first_step}", flush=True)
            for line in _write_config(config, workdir):
                print(line, flush=True)
            add_start(workdir, first_step)
            if (tracker := open_tracker(config, workdir, first_step)) is not None:
                close = tracker.close
                tracking.push(
                    lambda error, *_: close(
                        _ending(error, stop.by if step < train.num_steps else None)
                    )
                )
            report = Report(
                workdir,
                first_step=first_step,
                num_steps=train.num_steps,
                batch_size=train.batch_size,
                log_every=train.log_every,
                peak_flops=train.peak_flops and train.peak_flops * jax.device_count(),
                tracker=tracker,
            )
            stack.callback(report.close)

        batches = feed.batches(train.seed, train.batch_size, first_step)
        stack.callback(batches.close)
        updates = Updates(manager, workdir, report)
        patience = SKIPS_IN_A_ROW if train.on_nonfinite == "skip" else 1
        ahead = AHEAD
        if jax.default_backend() == "cpu" and jax.process_count() > 1:
            ahead = 0  # JAX's CPU collectives may wait for each other for ever

        update = start.update.result()
        clock.ends("compile")

        # The run.
        told = to_dict(config)
        while step < train.num_steps and not stop.asked(step):
            with jax.profiler.StepTraceAnnotation("update", step_num=step + 1):
                state, metrics = update(state, data, next(batches))
            step += 1
            compiled = step == first_step + 1  # which took longer than an update
            if compiled:
                jax.block_until_ready(metrics)
                clock.ends("update")
                if report is not None:
                    report.started(
                        clock.metrics(), pool.submit(start.flops), str(clock)
                    )
            updates.add(step, metrics)
            updates.check(ahead, patience)
            last = step == train.num_steps
            saves = last or step % train.checkpoint_every == 0
            shows = last or step % config.sample.every == 0
            measures = plan.every is not None and (
                step % plan.every == 0 or (saves and train.keep_best > 0)
            )
            if saves or shows or measures:
                updates.check(0, patience)
            if shows or measures:
                model = Model(
                    params=parallel.weights_here(state.ema_params),
                    schedule=schedule,
                    config=config,
                    network=network,
                    step=step,
                )
            measured: Mapping[str, float] = {}
            if measures:
                measured = evaluate(model)
                if report is not None:
                    report.measured(step, measured, during.shown(measured))
            if saves:
                saved, loss = runner.to_saved(state), updates.mean_loss()
                checkpoints.save(manager, saved, told, loss=loss, measured=measured)
            if shows and report is not None:
                path = workdir / "samples" / f"step_{step:07d}.png"
                _show(report, path, draw(model), step)
            if report is not None and (compiled or saves or shows or measures):
                report.restart_clock()
            if trace is not None and trace.edge(step):
                updates.check(0, patience)
                if report is not None:
                    if (ended := trace.after(step, state)) is not None:
                        report.say(ended)
                    report.restart_clock()
        updates.check(0, patience)
        if stop.by is not None:
            # Unranked: what measures it may take longer than there is left.
            saved, loss = runner.to_saved(state), updates.mean_loss()
            checkpoints.save(manager, saved, told, loss=loss, measured={})
            manager.wait_until_finished()
            if report is not None:
                report.say(
                    f"{stop.by.name}: saved step {step}; the same command resumes"
                )
        # Processes that leave would abort one that still draws the last grid.
        processes.barrier("done")
    return Outcome(step, stop.by if step < train.num_steps else None)


def _ending(
    error: type[BaseException] | None, stopped_by: signal.Signals | None
) -> Ending:
    """What a tracker is told of how the run ended."""
    if error is not None and not issubclass(error, KeyboardInterrupt):
        return "failed"
    return "finished" if error is None and stopped_by is None else "stopped"


def _show(report: Report, path: pathlib.Path, picture: np.ndarray, step: int) -> None:
    """Writes a grid of samples, and tells of it."""
    path.parent.mkdir(exist_ok=True)
    save_png(path, picture, origin={"run": path.parent.parent, "step": step})
    report.picture("samples", picture, step)
    report.say(f"drew {path}")


def _check_same_model(manager, step: int, config: Config, workdir) -> Config:
    """The checkpoint's config; ValueError if it is of other weights or another state.

    How a network is computed may change in a run: precision, memory, dropout, clipping.
    Another seed would go on with the noise of the old one and the data of the new one.
    """
    theirs = from_dict(checkpoints.restore_config(manager, step))
    free = {"network.remat", "network.dtype", "network.dropout", "diffusion.rederive"}
    free.add("network.convolutions")
    free |= {f"diffusion.clip.{item.name}" for item in fields(ClipConfig)}
    free |= {"data.path", "data.split", "data.test_split", "data.resize"}
    free |= {"data.resident", "data.workers"}
    free.add("data.class_names")  # see `kept_class_names`
    found = [
        *differences(config.network, theirs.network, "network."),
        *differences(config.diffusion, theirs.diffusion, "diffusion."),
        *differences(config.data, theirs.data, "data."),
    ]
    other = [line for line in found if line.split(":")[0] not in free]
    if config.train.seed != theirs.train.seed:
        other.append(f"train.seed: {config.train.seed}, not {theirs.train.seed}")
    for name, kept in _optimizer_parts(config.optim).items():
        before = _optimizer_parts(theirs.optim)[name]
        if kept != before:
            other.append(f"optim.{name} is {kept}, not {before}")
    if other:
        raise ValueError(
            f"{workdir} holds a run of another model: {other[0]}"
            + (f" (and {len(other) - 1} more fields differ)" if len(other) > 1 else "")
        )
    return theirs


def _optimizer_parts(optim: OptimConfig) -> dict[str, str]:
    """What decides which parts the optimiser's state has."""
    scheduled = optim.warmup_steps > 0 or optim.decay_steps is not None
    return {
        "clip_norm": "None" if optim.clip_norm is None else "a bound",
        "weight_decay": "positive" if optim.weight_decay else "0",
        "warmup_steps and decay_steps": "a schedule" if scheduled else "0 and None",
    }


def _as_begun(config: Config, workdir: pathlib.Path) -> Config:
    """The config, with what a run decides once, when it begins, as the run did.

    A warm-up of the average that began late would forget all that is averaged.
    """
    stored = checkpoints.stored_config(workdir / "checkpoints")
    if stored is None:
        return config
    begun = from_dict(stored).optim.ema_warmup
    if begun != config.optim.ema_warmup and processes.is_main():
        print(f"optim.ema_warmup stays {begun}: the run has begun so", flush=True)
    optim = dataclasses.replace(config.optim, ema_warmup=begun)
    return dataclasses.replace(config, optim=optim)


def _write_config(config: Config, workdir: pathlib.Path) -> list[str]:
    """Replaces config.json in one piece: a reader never sees half of it.

    One that differs is kept as config.json.old; what is returned says so.
    """
    path, said = workdir / "config.json", []
    if path.exists():
        try:
            values = from_dict(json.loads(path.read_text()))
            found = differences(config, values)
        except (ValueError, RecursionError) as error:
            found = [f"it could not be read ({' '.join(str(error).split())[:200]})"]
        if found:
            said.append(
                f"config.json is written anew: {'; '.join(found)} (a record, never "
                "read; the one before is config.json.old)"
            )
            path.replace(path.with_name("config.json.old"))
    with whole_file(path) as file:
        file.write((json.dumps(to_dict(config), indent=2) + "\n").encode())
    return said


def _grid_drawer(config: Config) -> Callable[[Model], np.ndarray]:
    """From a model to the run's picture: always the same noise and labels."""
    sample = config.sample
    columns = int(np.ceil(np.sqrt(sample.num)))
    how: dict[str, Any] = {"sampler": sample.sampler, "steps": sample.steps}
    # What no grid could be drawn with is refused before the first update.
    sampler = build.make_sampler(sample.sampler)
    build.make_schedule(config.diffusion.schedule, steps=sample.steps, sampler=sampler)
    if config.data.num_classes is not None:
        how["label"] = np.arange(sample.num) % columns % config.data.num_classes

    def draw(model: Model) -> np.ndarray:
        x = model.sample(0, sample.num, progress=False, **how)
        return grid(to_uint8(x), columns)

    return draw


def _summary(
    config: Config, description: str, abstract_state, workdir, notes: Sequence[str]
) -> str:
    count = sum(np.prod(x.shape) for x in jax.tree.leaves(abstract_state.params))
    diffusion, devices = config.diffusion, jax.devices()
    schedule, own = diffusion.schedule, config.network.own
    return "\n".join(
        f"{name:<9} " + text.replace("\n", "\n" + " " * 10)
        for name, text in (
            ("data", description),
            ("network", f"{count:,} parameters, {own or config.network.dtype}"),
            (
                "diffusion",
                f"{schedule.num_steps} {schedule.kind} steps, at whose end "
                f"{build.signal_left(schedule):.2g} of x_0 is left, predicts "
                f"{diffusion.predict}, {diffusion.variance}, {diffusion.loss} loss",
            ),
            (
                "devices",
                f"{len(devices)} x {devices[0].device_kind}, {config.train.runner}",
            ),
            ("workdir", str(workdir)),
            *(("note", line) for line in (*cautions(config), *notes)),
        )
    )
