"""The programs that commands in the documentation name: parsed, or run in short.

What a command line says is parsed by the program itself. Only the sizes are lowered
then: a run of a few updates of a small network, a few images, one seed.
"""

import contextlib
import dataclasses
import functools
import io
import pathlib
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import ddpm_jax.data.__main__ as data_command
import ddpm_jax.evaluation.__main__ as evaluation
import ddpm_jax.evaluation.classifier.__main__ as classifier
import ddpm_jax.evaluation.likelihood.__main__ as likelihood
import ddpm_jax.figures.__main__ as figures
import ddpm_jax.interop.__main__ as interop
import ddpm_jax.report.__main__ as report
from ddpm_jax.command import (
    one_line_errors,
    parse,
    parse_call,
    parse_train,
    prepare_jax,
)
from ddpm_jax.commands import sample, train
from ddpm_jax.config import Config
from ddpm_jax.training import loop

MODULES = {
    "ddpm_jax.evaluation": evaluation,
    "ddpm_jax.evaluation.classifier": classifier,
    "ddpm_jax.evaluation.likelihood": likelihood,
    "ddpm_jax.figures": figures,
    "ddpm_jax.report": report,
}


def lowered(options: Any, **most: int) -> Any:
    """Options of which none of these is larger than that."""
    small = {
        name: min(getattr(options, name) or most[name], most[name]) for name in most
    }
    return dataclasses.replace(options, **small)


def short_config(config: Config) -> Config:
    """A run of seconds, with the data and the objective of this config."""
    network = dataclasses.replace(
        config.network,
        channels=8,
        multipliers=(1,) * (config.data.image_size // 8).bit_length(),  # down to 8
        num_blocks=1,
        attention_resolutions=(),
        num_groups=4,
    )
    train = lowered(config.train, num_steps=6, log_every=3, checkpoint_every=6)
    train = dataclasses.replace(train, batch_size=8 * train.accumulate)
    schedule = config.diffusion.schedule
    if schedule.kind == "linear":
        schedule = lowered(schedule, num_steps=50)
    shown = lowered(config.sample, num=4, every=6, steps=5)
    measured = config.evaluation
    if measured.every is not None:
        measured = lowered(measured, every=6, images=8)
        if measured.samples:
            measured = lowered(measured, samples=16, steps=5)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, workers=0),
        network=network,
        diffusion=dataclasses.replace(config.diffusion, schedule=schedule),
        train=train,
        sample=shown,
        evaluation=measured,
    )


def shorten() -> None:
    """Has every program of this process, and `ddpm_jax.train`, do little work."""
    whole_run, draw, measure = loop.run, sample.main, evaluation.main
    trained, bound, drawn = classifier.main, likelihood.main, figures.main

    def run(config: Config, workdir: Any, **options: Any) -> loop.Outcome:
        if options.get("profile") is not None:
            options["profile"] = 1
        return whole_run(short_config(config), workdir, **options)

    def draw_few(options: Any) -> None:
        few = lowered(options.draw, num=10, batch_size=10)
        profile = options.profile and 1
        draw(dataclasses.replace(options, draw=few, profile=profile))

    def measure_few(options: Any) -> Any:
        few = options.draw if options.images else lowered(options.draw, num=32, steps=5)
        return measure(dataclasses.replace(lowered(options, seeds=1), draw=few))

    loop.run, sample.main, evaluation.main = run, draw_few, measure_few  # type: ignore
    classifier.main = lambda options: trained(lowered(options, num_steps=20))
    likelihood.main = lambda options: bound(lowered(options, num=8, steps=5))
    figures.main = lambda options: drawn(lowered(options, num=4))


def runnable(words: list[str]) -> Callable[[], None] | None:
    """The program that a command line starts, to call with `sys.argv` as it is."""
    name, _ = named(words)
    if name in MODULES:
        module = MODULES[name]

        def run() -> None:
            with one_line_errors():
                options = parse(module.Options, prog=f"python -m {name}")
                prepare_jax()
                module.main(options)

        return run
    return {
        "train": train.run,
        "sample": sample.run,
        "ddpm_jax.interop": _within(interop.main),
        "import": lambda: interop.run(interop.import_weights, "ddpm-import"),
        "export": lambda: interop.run(interop.export_weights, "ddpm-export"),
        "ddpm_jax.data": _within(data_command.main),
    }.get(name)


def _within(main: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        with one_line_errors():
            main()

    return run


def named(words: list[str]) -> tuple[str, list[str]]:
    """The program of a command line, by one name however it is written, and the rest.

    The name is "" where the program is none of ours.
    """
    first = pathlib.PurePath(words[0]).name
    if first.startswith("python"):
        if words[1:2] == ["-m"] and len(words) > 2:
            aliases = {"ddpm_jax.evaluation.__main__": "ddpm_jax.evaluation"}
            name = aliases.get(words[2], words[2])
            return (name if name.startswith("ddpm_jax.") else ""), words[3:]
        first, words = (pathlib.PurePath(words[1]).name if words[1:] else ""), words[1:]
    scripts = {"train.py": "train", "sample.py": "sample"}
    scripts |= {"ddpm-train": "train", "ddpm-sample": "sample"}
    scripts |= {"ddpm-evaluate": "ddpm_jax.evaluation"}
    scripts |= {"ddpm-report": "ddpm_jax.report"}
    scripts |= {"ddpm-import": "import", "ddpm-export": "export"}
    return scripts.get(first, ""), words[1:]


def check_options(words: list[str]) -> bool:
    """Has the program parse its command line and do no more; False if it is not ours.

    Raises:
        SystemExit, ValueError: if it refuses it.
    """
    name, rest = named(words)
    if not name:
        return False
    if name == "train":
        parse_train(rest)
    elif name == "sample":
        parse(sample.Options, args=rest)
    elif name in MODULES:
        parse(MODULES[name].Options, args=rest)
    elif name == "ddpm_jax.interop":
        whole = {"import": interop.import_weights, "export": interop.export_weights}
        parse_call(whole, args=rest)
    elif name in ("import", "export"):
        function = (
            interop.import_weights if name == "import" else interop.export_weights
        )
        parse_call(function, args=rest)
    elif name == "ddpm_jax.data":
        parse_call({"check": data_command.check}, args=rest)
    else:
        raise ValueError(f"no program {name}")
    return True


def commands(code: str) -> Iterator[list[str]]:
    """The words of every command of ours in a shell's text, its quoted parts too."""
    for words in _split(re.sub(r"\\\n\s*", " ", code)):
        yield from _ours(words)


def _split(code: str) -> Iterator[list[str]]:
    """The words of each of a shell's commands."""
    separate = code.replace("\n", "\n;")
    lexer = shlex.shlex(separate, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set(";&|()<>"):
            if words:
                yield words
            words = []
        else:
            words.append(word)


def _ours(words: list[str]) -> Iterator[list[str]]:
    for i, word in enumerate(words):
        if " " in word and re.search(r"train\.py|sample\.py|ddpm", word):
            yield from commands(word)
        elif named(words[i:])[0]:
            yield words[i:]
            return


def refusal(words: list[str]) -> str:
    """What the program says against a command line, which it only parses, or ""."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            check_options(words)
    except SystemExit as end:
        return said.getvalue().strip() if end.code else ""
    except (ValueError, OSError) as error:
        return str(error)
    return ""


@functools.cache
def options() -> set[str]:
    """Every option that one of the programs takes."""
    found = {"--config", "--workdir", "--help"}
    for words in (
        *(["train.py"], ["sample.py"], ["ddpm-import"], ["ddpm-export"]),
        *(["python", "-m", name] for name in MODULES),
        ["python", "-m", "ddpm_jax.data", "check"],
    ):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            check_options([*words, "--help"])
        found |= set(re.findall(r"--[a-z][\w.-]*", said.getvalue()))
    return found
