"""Configs refuse what cannot work, survive JSON, and every shipped one is sound."""

import dataclasses
import json
import pathlib
import re
import typing

import jax
import numpy as np
import pytest
from PIL import Image

from ddpm_jax import build, config
from ddpm_jax.command import parse_train, read_config

ROOT = pathlib.Path(__file__).parent.parent
SHIPPED = sorted((ROOT / "configs").glob("*.py"))

PARAMETERS = {  # canonical sizes; the published counts of Ho et al. and Song et al.
    "cifar10": 35_746_307,
    "celeba64": 78_700_803,
    "lsun256": 113_673_219,
    "cifar10_improved": 52_546_438,
}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_survive_json(path):
    shipped = read_config(path)
    values = json.loads(json.dumps(config.to_dict(shipped)))
    assert config.from_dict(values) == shipped


@pytest.mark.parametrize(("old", "name"), [(False, "none"), (True, "blocks")])
def test_remat_was_a_bool(old, name):
    values = config.to_dict(config.Config())
    values["network"]["remat"] = old
    assert config.from_dict(values).network.remat == name
    assert build.make_network(config.from_dict(values)).recomputes == name


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_networks_have_their_published_size(name):
    path = ROOT / "configs" / f"{name}.py"
    shipped = read_config(path)
    network = build.make_network(shipped)
    params = jax.eval_shape(
        lambda key: build.init_params(key, network, shipped.data), jax.random.key(0)
    )
    assert sum(np.prod(x.shape) for x in jax.tree.leaves(params)) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: config.DataConfig(channels=2), "data.channels must be 1 or 3; got 2"),
        (lambda: config.DataConfig(background=256), r"background must be in 0\.\.255"),
        (lambda: config.DataConfig(background=(0, -1, 0)), "data.background must be"),
        (lambda: config.DataConfig(background=(0, 0)), "data.background must be of"),
        (lambda: config.DataConfig(class_names=("a",)), "num_classes=None reads none"),
        (
            lambda: config.DataConfig(num_classes=2, class_names=("a", "a")),
            "data.class_names must be 2 different names.*got a a",
        ),
        (lambda: config.DataConfig(image_size=16), "the digits are 8 x 8"),
        (lambda: config.DataConfig(source="folder"), "data.path must name"),
        (lambda: config.ScheduleConfig(start=1.5), r"schedule.start .* in \(0, 1\)"),
        (
            lambda: config.ScheduleConfig(kind="cosine", start=0.1),
            "schedule.start is not read by the cosine schedule",
        ),
        (
            lambda: config.NetworkConfig(channels=48),
            "num_groups=32 must divide the channels",
        ),
        (
            lambda: config.DiffusionConfig(loss="hybrid"),
            "hybrid trains a learned variance",
        ),
        (
            lambda: config.DiffusionConfig(
                schedule=config.ScheduleConfig(zero_terminal_snr=True)
            ),
            "must predict v or x0",
        ),
        (
            lambda: config.DiffusionConfig(variance="learned_range"),
            "leaves a learned variance untrained",
        ),
        (
            lambda: config.TrainConfig(batch_size=10, accumulate=4),
            "accumulate=4 must divide",
        ),
        (lambda: config.OptimConfig(ema_decay=1.0), r"ema_decay must be in \[0, 1\)"),
        (
            lambda: config.UNetConfig(
                network=config.NetworkConfig(multipliers=(1, 2, 2, 2, 2))
            ),
            "data.image_size must be divisible by 2.4",
        ),
        (
            lambda: config.Config(
                network=config.NetworkConfig(multipliers=(1, 2)),
                diffusion=config.DiffusionConfig(label_dropout=0.1),
            ),
            "label_dropout needs labels",
        ),
    ],
)
def test_what_cannot_work_is_refused(make, line):
    with pytest.raises(ValueError, match=line):
        make()


def test_all_broken_rules_are_listed_at_once():
    """Of a section; of the sections together; of a stored config, in all of them."""
    with pytest.raises(
        ValueError, match=r"^train\.batch_size.*; train\.keep_best"
    ) as it:
        config.TrainConfig(batch_size=0, accumulate=0, keep_best=-1, fsdp=2)
    assert str(it.value).count("; train.") == 2  # accumulate is one of them
    lines = "train.num_steps must be of type int.*; train.batch_size must be of type"
    with pytest.raises(ValueError, match=lines):
        config.TrainConfig(num_steps="many", batch_size=None)
    lines = "network.attention_resolutions.*; diffusion.label_dropout.*; sample.steps"
    with pytest.raises(ValueError, match=lines):
        config.UNetConfig(
            network=config.NetworkConfig(),
            diffusion=config.DiffusionConfig(label_dropout=0.1),
            sample=config.SampleConfig(steps=1001),
        )
    stored = {"data": {"channels": 2}, "optim": {"eps": 0.0}}
    stored["diffusion"] = {"schedule": {"kind": "cosine", "start": 2.0}}
    start = r"schedule\.start is not read .*; schedule\.start must be in \(0, 1\)"
    with pytest.raises(ValueError, match=rf"data\.channels.*optim\.eps.*{start}"):
        config.from_dict(stored)


def test_differences_name_the_fields():
    ours = config.NetworkConfig(channels=64)
    assert config.differences(ours, config.NetworkConfig(), "network.") == [
        "network.channels: 64, not 128"
    ]


def test_data_options_of_several_values(tmp_path, monkeypatch):
    """A path that the shell left as it is, colours, and names."""
    (tmp_path / "mine").mkdir()
    Image.new("RGBA", (8, 8)).save(tmp_path / "mine" / "a.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = ["--data.source", "folder", "--data.path=~/mine", "--data.channels", "3"]
    smoke = ROOT / "configs" / "smoke.py"
    for given, background in ((["7"], 7), (["1", "2", "3"], (1, 2, 3))):
        options = [*folder, "--data.background", *given]
        options += ["--data.num-classes", "2", "--data.class-names", "dog", "cat"]
        parsed, *_ = parse_train(["--config", str(smoke), *options], smoke)
        assert parsed.data.background == background
        assert parsed.data.class_names == ("dog", "cat")
        values = json.loads(json.dumps(config.to_dict(parsed)))
        assert config.from_dict(values) == parsed
        unlabelled = dataclasses.replace(
            parsed.data, num_classes=None, class_names=None
        )
        pixel = build.load_images(unlabelled, "train").images[0, 0, 0]
        assert tuple(pixel) == ((7, 7, 7) if background == 7 else background)


def test_an_unknown_field_is_named():
    with pytest.raises(ValueError, match=r"no field train\.lr;"):
        config.from_dict({"train": {"lr": 1.0}})


def test_overrides_reach_nested_fields():
    parsed, workdir, *_ = parse_train(
        ["--train.batch-size", "32", "--diffusion.schedule.num-steps", "50"],
        ROOT / "configs" / "smoke.py",
    )
    assert parsed.train.batch_size == 32
    assert parsed.diffusion.schedule.num_steps == 50
    assert workdir == pathlib.Path("runs/smoke")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--train.batch-sise", "32"], "--train.batch-size"),
        (["--train.batch-size", "many"], "many"),
        (["--network.dropout", "1.5"], r"network.dropout must be in [0, 1)"),
        (["--diffusion.predict", "noise"], "noise"),
    ],
)
def test_bad_options_are_named(arguments, said, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse_train(arguments, ROOT / "configs" / "smoke.py")
    assert exit_.value.code != 0
    assert said in capsys.readouterr().err


def test_a_config_file_must_return_a_config(tmp_path):
    with pytest.raises(ValueError, match="must name a file"):
        read_config(tmp_path / "none.py")
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="must define get_config"):
        read_config(tmp_path / "empty.py")


def test_schedules_are_those_that_the_config_names():
    names = {
        "linear": (1e-4, 0.02),
        "quadratic": (1e-4, 0.02),
        "constant": (0.02, 0.02),
        "warmup": (1e-4, 0.02),
        "cosine": (4.12842248e-5, 0.999),
        "jsd": (1e-3, 1.0),
    }
    for kind, (first, last) in names.items():
        betas = build.make_betas(config.ScheduleConfig(kind=kind))
        np.testing.assert_allclose(betas[[0, -1]], [first, last], rtol=1e-7)
    scaled = config.ScheduleConfig(num_steps=4000, start=2.5e-5, end=0.005)
    np.testing.assert_allclose(build.make_betas(scaled)[[0, -1]], [2.5e-5, 0.005])


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (
            lambda: config.DiffusionConfig(predict="epsilon"),
            "one of eps, x0, v; got",
        ),
        (
            lambda: config.ScheduleConfig(kind="lineer"),
            "schedule.kind must be one of",
        ),
        (
            lambda: config.TrainConfig(batch_size="64"),
            "batch_size must be of type int",
        ),
        (
            lambda: config.TrainConfig(batch_size=64.0),
            "batch_size must be of type int",
        ),
        (lambda: config.TrainConfig(keep_every=0), "train.keep_every"),
        (lambda: config.NetworkConfig(num_heads=0), "network.num_heads"),
        (
            lambda: config.DiffusionConfig(schedule=config.ScheduleConfig(kind="jsd")),
            "must predict v or x0",
        ),
        (
            lambda: config.Config(
                data=config.DataConfig(num_classes=10),
                network=config.NetworkConfig(
                    attention_resolutions=(8,), null_label=False
                ),
                diffusion=config.DiffusionConfig(label_dropout=0.1),
            ),
            "a row for no label",
        ),
        (
            lambda: config.UNetConfig(network=config.NetworkConfig()),
            "sizes that the network has, 8, 4, 2, 1; got 16",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_a_file_too(make, line):
    with pytest.raises(ValueError, match=line):
        make()


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"kind": "soft"},
            "clip.kind must be one of none, static, dynamic; got 'soft'",
        ),
        (
            {"kind": "none", "bound": 2.0},
            "clip.bound is not read by .*kind=none; got 2",
        ),
        ({"percentile": 0.9}, "clip.percentile is not read by .*kind=static; got 0.9"),
        ({"kind": "dynamic", "bound": 2.0}, "clip.bound is not read"),
        *(({"bound": x}, "clip.bound must be positive") for x in (0.0, -1.0)),
        *(({"bound": x}, "clip.bound must be finite") for x in (np.inf, np.nan)),
        ({"kind": "dynamic", "percentile": 1.1}, r"percentile must be in \(0, 1\]"),
        ({"kind": "dynamic", "max_value": 0.5}, "max_value must be finite, at least 1"),
    ],
)
def test_a_clipping_that_cannot_be_is_refused(fields, line):
    with pytest.raises(ValueError, match=line):
        config.ClipConfig(**fields)


def test_the_clipping_is_that_of_the_config():
    x0 = np.array([[0.1, -3.0, 0.5, 2.0], [0.2, 0.1, -0.3, 0.4]], np.float32)

    def clipped(**fields):
        return build.make_clip(config.ClipConfig(**fields))(x0)

    assert build.make_clip(config.ClipConfig(kind="none")) is None
    np.testing.assert_array_equal(clipped(), np.clip(x0, -1, 1))
    np.testing.assert_array_equal(clipped(bound=2.5), np.clip(x0, -2.5, 2.5))
    # The whole range: each example is divided by its largest number, if that is over 1.
    scaled = clipped(kind="dynamic", percentile=1.0)
    np.testing.assert_allclose(scaled, x0 / [[3], [1]], rtol=1e-6)
    scaled = clipped(kind="dynamic", percentile=1.0, max_value=2.0)
    np.testing.assert_allclose(scaled, np.clip(x0, -2, 2) / [[2], [1]], rtol=1e-6)
    # The upper median of 0.1, 0.5, 2, 3, half-way between two of them, is 1.25.
    scaled = clipped(kind="dynamic", percentile=0.5)
    np.testing.assert_allclose(
        scaled, np.clip(x0, -1.25, 1.25) / [[1.25], [1]], rtol=1e-6
    )


def test_configs_that_clip_or_not_are_read():
    """As they were until clipping had kinds."""
    for old, kind in ((True, "static"), (False, "none")):
        expected = config.ClipConfig(kind=kind)
        assert config.DiffusionConfig(clip=old).clip == expected
        values = config.to_dict(read_config(ROOT / "configs" / "smoke.py"))
        values["diffusion"]["clip"] = old
        assert config.from_dict(values).diffusion.clip == expected
        option = "--diffusion.clip" if old else "--diffusion.no-clip"
        parsed = parse_train([option], ROOT / "configs" / "smoke.py").config
        assert parsed.diffusion.clip == expected
    with pytest.raises(ValueError, match=r"diffusion.clip must be .*ClipConfig; got 1"):
        config.from_dict({"diffusion": {"clip": 1}})


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"kind": "explicit"}, "explicit needs schedule.betas"),
        ({"betas": (0.1, 0.2)}, "betas is not read by the linear .*; got .0.1, 0.2."),
        ({"kind": "explicit", "betas": (0.1,)}, "num_steps = 2 numbers; got 1$"),
        ({"kind": "explicit", "betas": (0.1, 0.2), "end": 0.3}, "end is not read"),
        *(
            ({"kind": "explicit", "betas": x}, r"betas must be in \(0, 1\), or 1 at")
            for x in ((1.0, 0.5), (0.0, 0.1), (0.1, 1.1))
        ),
        ({"kind": "explicit", "betas": (0.1, np.nan)}, "betas must be finite"),
        ({"kind": "explicit", "betas": (0.1, "x")}, "betas must be of type"),
        ({"kind": "explicit", "num_steps": 999, "betas": (2.0,) * 999}, "2.0, ...."),
    ],
)
def test_betas_that_cannot_be_are_refused(fields, line):
    with pytest.raises(ValueError, match=line) as caught:
        config.ScheduleConfig(**{"num_steps": 2, **fields})
    assert len(str(caught.value)) < 200


def test_explicit_betas_are_the_schedules():
    betas = (0.1, 0.2, 0.5)
    explicit = {"kind": "explicit", "num_steps": 3}
    chosen = config.ScheduleConfig(**explicit, betas=betas)
    assert build.make_betas(chosen).tolist() == list(betas)
    assert not chosen.ends_in_noise
    assert config.ScheduleConfig(**explicit, betas=(0.1, 0.2, 1)).ends_in_noise
    shifted = config.ScheduleConfig(**explicit, betas=betas, zero_terminal_snr=True)
    assert shifted.ends_in_noise and build.make_betas(shifted)[-1] == 1
    other = config.differences(chosen, config.ScheduleConfig(), "schedule.")
    assert "schedule.betas: (0.1, 0.2, 0.5), not None" in other


def test_every_sampler_limits_as_the_config_says():
    clip = config.ClipConfig(bound=0.25)
    diffusion = config.DiffusionConfig(
        schedule=config.ScheduleConfig(num_steps=4, end=0.99), clip=clip, rederive=False
    )
    schedule = build.make_schedule(diffusion.schedule)
    x = jax.random.normal(jax.random.key(0), (2, 3))
    denoise = build.make_denoiser(diffusion, lambda x, t: 3 * x)
    for name in build.SAMPLERS:
        sampler = build.make_sampler(name)
        state = sampler.init(schedule, x)
        _, info = sampler.step(jax.random.key(1), denoise, schedule, state, 3)
        assert np.abs(info.x0).max() == 0.25, name


def test_ddim_keeps_or_derives_eps_as_it_is_told():
    """From alpha_bar_t to its neighbour's, with x0 = 0.25 sign(...) and either eps."""
    diffusion = config.DiffusionConfig(
        schedule=config.ScheduleConfig(num_steps=4, end=0.99),
        clip=config.ClipConfig(bound=0.25),
    )
    schedule = build.make_schedule(diffusion.schedule)
    x = np.array([[1.0, -2.0]])
    a, below = np.asarray(schedule.alphas_cumprod, np.float64)[[3, 2]]
    x0 = np.array([[-0.25, 0.25]])
    derived = (x - np.sqrt(a) * x0) / np.sqrt(1 - a)
    for in_config, option, eps in (
        *((True, None, derived), (False, None, 3 * x)),
        *((True, False, 3 * x), (False, True, derived)),
    ):
        chosen = dataclasses.replace(diffusion, rederive=in_config)
        denoise = build.make_denoiser(chosen, lambda x, t: 3 * x, rederive=option)
        sampler = build.make_sampler("ddim")
        state = sampler.init(schedule, x)
        new, _ = sampler.step(jax.random.key(1), denoise, schedule, state, 3)
        expected = np.sqrt(below) * x0 + np.sqrt(1 - below) * eps
        np.testing.assert_allclose(new.x, expected, rtol=1e-5)


KINDS = ("linear", "quadratic", "constant", "warmup", "sigmoid")


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_that_does_not_end_in_noise_is_said_with_ends_that_do(kind):
    short = config.ScheduleConfig(kind=kind, num_steps=50)
    left = build.make_betas(short)
    left = f"x_T still holds {np.sqrt(np.prod(1 - left)):.0%} of x_0"
    with pytest.warns(UserWarning, match=left) as caught:
        build.warn_of_signal(short)
    found = re.findall(r"schedule\.(start|end)=([\d.]+\d)", str(caught[0].message))
    ends = {name: float(value) for name, value in found}
    assert ends == {"end": 0.4} | ({} if kind == "constant" else {"start": 0.002})
    build.warn_of_signal(dataclasses.replace(short, **ends))  # warnings are errors here


@pytest.mark.parametrize("kind", ["cosine", "jsd", *KINDS])
def test_a_usual_chain_ends_in_noise(kind):
    build.warn_of_signal(config.ScheduleConfig(kind=kind))
    build.warn_of_signal(config.ScheduleConfig(kind="cosine", num_steps=2))
    build.warn_of_signal(config.ScheduleConfig(num_steps=20, zero_terminal_snr=True))


def test_a_stored_config_without_a_warm_up_had_none():
    stored = config.to_dict(read_config(ROOT / "configs" / "smoke.py"))
    assert config.from_dict(stored).optim.ema_warmup
    del stored["optim"]["ema_warmup"]
    assert not config.from_dict(stored).optim.ema_warmup


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_average_warms_up_but_where_a_paper_has_none(path):
    of_a_paper = {"cifar10", "cifar10_cfg", "cifar10_improved", "celeba64", "lsun256"}
    assert read_config(path).optim.ema_warmup == (path.stem not in of_a_paper)


@pytest.mark.parametrize(
    ("values", "line"),
    [([1], "a config must be a section"), ({"train": 5}, "^train must be of type")],
)
def test_what_is_no_config_is_refused(values, line):
    with pytest.raises(ValueError, match=line):
        config.from_dict(values)


def test_a_list_is_as_good_as_a_tuple():
    assert config.NetworkConfig(multipliers=[1, 2]) == config.NetworkConfig(
        multipliers=(1, 2)
    )


def test_a_misspelt_field_of_a_file_is_one_line(tmp_path):
    (tmp_path / "bad.py").write_text(
        "from ddpm_jax.config import TrainConfig\n"
        "def get_config():\n    return TrainConfig(batchsize=1)\n"
    )
    with pytest.raises(ValueError, match=r"bad\.py: .*batchsize"):
        read_config(tmp_path / "bad.py")


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"samples": 100}, "evaluation.samples is not read without evaluation.every;"),
        ({"images": 64}, "evaluation.images is not read without evaluation.every;"),
        ({"every": 9, "steps": 3}, "steps is not read without evaluation.samples; got"),
        ({"every": 9, "images": 0}, "evaluation.images or evaluation.samples"),
    ],
)
def test_what_would_measure_nothing_is_refused(fields, line):
    with pytest.raises(ValueError, match=line):
        config.EvaluationConfig(**fields)


def test_samples_are_measured_as_their_chain_can_be_walked():
    jsd = config.ScheduleConfig(kind="jsd")
    diffusion = config.DiffusionConfig(schedule=jsd, predict="v")
    heun = config.EvaluationConfig(every=1, samples=2, sampler="heun")
    with pytest.raises(ValueError, match=r"^evaluation\.sampler=heun cannot"):
        config.Config(diffusion=diffusion, evaluation=heun)


def test_a_run_from_before_there_was_an_evaluation_had_none():
    stored = config.to_dict(read_config(ROOT / "configs" / "digits.py"))
    assert config.from_dict(stored).evaluation.every == 500
    del stored["evaluation"]
    assert config.from_dict(stored).evaluation == config.EvaluationConfig()
    assert config.EvaluationConfig().every is None


INF, NAN = float("inf"), float("nan")
# What each number of a config may not be: of its kind, and of its own rule.
FLOATS = {NAN, INF, -INF, 1e300}
WRONG = {
    config.DataConfig: {
        **{"image_size": {0, -8, 2**31}, "channels": {0, 2}, "workers": {-1, 2**31}},
        **{"num_classes": {0, 2**31}, "background": {-1, 256, (0, 0, 256)}},
    },
    config.ScheduleConfig: {
        "num_steps": {1, 0, -1, 2_000_000_000, 1_000_001},
        **{"start": FLOATS | {0.0, 1.0}, "end": FLOATS | {0.0, 1.0}},
    },
    config.DiffusionConfig: {"label_dropout": FLOATS | {1.0, -0.1, 1 - 1e-12}},
    config.NetworkConfig: {
        **{"channels": {0, -32, 3, 2**31}, "num_blocks": {0, 10_000_000}},
        **{"num_groups": {0, -1}, "num_heads": {0}, "head_channels": {0, -1}},
        "multipliers": {(), (0,), (NAN,), (INF,), (1e30,), (-1, 2)},
        "attention_resolutions": {(-2,), (0,), (3,), (2**31,)},
        "dropout": FLOATS | {1.0, -0.1},
        "norm_eps": FLOATS | {0.0, -1.0, 1e-60},
        "time_scale": FLOATS | {0.0, -1.0, 1e-60, 1e-9, 1e9},
        "freq_shift": {-1, 64, 1000},
        "downsample_padding": {(0, 0), (-1, 0), (-1, 2), (9, 9), (2, 1)},
    },
    config.OptimConfig: {
        **{"learning_rate": FLOATS | {0.0, -1.0}, "eps": FLOATS | {0.0, 1e-60}},
        **{"beta1": FLOATS | {1.0, 1 - 1e-9}, "beta2": FLOATS | {1.0, 1 - 1e-9}},
        **{"ema_decay": FLOATS | {1.0, -0.1}, "weight_decay": FLOATS | {-1.0}},
        **{"clip_norm": FLOATS | {0.0, -1.0}, "warmup_steps": {-1, 2**31}},
        "decay_steps": {0, 5000, 2**31},
    },
    config.TrainConfig: {
        **{"num_steps": {0, 2**31}, "batch_size": {0, 2**31}, "accumulate": {0, 3}},
        **{"fsdp": {0}, "log_every": {0}, "checkpoint_every": {0}, "keep_latest": {0}},
        **{"keep_every": {0, -1}, "keep_best": {-1, 2**31}},
        **{"seed": {-1, 2**32, 2**63}, "peak_flops": {0.0, -1.0, 1e39}},
    },
    config.SampleConfig: {"steps": {0, -1, 1001}, "every": {0}, "num": {0, 2**31}},
    config.EvaluationConfig: {
        **{"every": {0, -1, 2**31}, "images": {-1, 2**31}, "levels": {0, -1, 2**31}},
        **{"samples": {-1, 1, 2**31}, "steps": {0, -1, 1001}},
    },
}


# What goes with the values above: images of a size that the default network halves.
BESIDE: dict = {
    config.DataConfig: {"source": "folder", "path": "images"},
    config.EvaluationConfig: {"every": 1, "samples": 2},
}
IMAGES = config.DataConfig(**BESIDE[config.DataConfig], image_size=32)


def whole(section):
    """The config with that section, sound in all others."""
    if isinstance(section, config.ScheduleConfig):
        section = config.DiffusionConfig(schedule=section)
    name = type(section).__name__.removesuffix("Config").lower()
    sound = {"data": IMAGES, "network": config.NetworkConfig()}
    return config.UNetConfig(**{**sound, name: section})


def numbers(cls):
    """The fields of a section that hold numbers, or tuples of them."""
    hints = typing.get_type_hints(cls).items()
    return {name for name, hint in hints if re.search(r"\b(int|float)\b", str(hint))}


def test_every_number_of_a_config_has_a_range():
    # What other kinds of schedule read.
    not_read = {"fraction", "offset", "max_beta", "betas"}
    for cls, wrong in WRONG.items():
        assert set(wrong) == numbers(cls) - not_read, cls


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (c, n, v)
        for c, x in WRONG.items()
        for n, y in x.items()
        for v in sorted(y, key=str)
    ],
    ids=str,
)
def test_values_that_no_run_can_have_are_refused_by_name(cls, name, value):
    with pytest.raises(ValueError, match=rf"^\w+\.{name}\b[^\n]*$"):
        whole(cls(**{**BESIDE.get(cls, {}), name: value}))
