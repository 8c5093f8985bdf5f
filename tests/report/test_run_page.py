"""The page of a run, in every state that a workdir can be in."""

import base64
import html.parser
import io
import json
import math
import re

import jax
import numpy as np
import pytest
from PIL import Image
from toy import small_config, toy_config

from ddpm_jax import loading
from ddpm_jax.config import to_dict
from ddpm_jax.images import to_uint8
from ddpm_jax.report import chain, charts, recorded
from ddpm_jax.report.__main__ import Options, main, run
from ddpm_jax.training import report as training_report

VOID = {"meta", "img", "br"}
EVIL = ("<script>alert(1)</script>", "a \" & 'b'", "\x1b[31mred\nline")


class Checked(html.parser.HTMLParser):
    """The page's text, pictures and tags; asserts that each tag is closed in turn."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.words, self.pictures = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name == "src":
                kind, _, data = value.partition(";base64,")
                assert kind in ("data:image/png", "data:image/gif")
                self.pictures.append(Image.open(io.BytesIO(base64.b64decode(data))))
            elif name == "href":
                assert value.startswith("#")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def made(workdir, **options):
    """The page, parsed and without a request to anywhere."""
    main(Options(workdir=workdir, **{"chain": False, **options}))
    page = (workdir / "report.html").read_text()
    assert not re.search(r"https?:|url\(|@import|<script|<link|<iframe", page)
    return Checked(page)


def lines(*values):
    return "".join(json.dumps(x) + "\n" for x in values)


def workdir_with(folder, *, metrics="", **data):
    values = to_dict(toy_config(size=8, classes=3))
    values["data"] |= data
    values["train"]["num_steps"] = 40
    write(folder, "config.json", values)
    if metrics:
        write(folder, "metrics.jsonl", metrics)
    return folder


def evaluation(shown="FID", **more):
    row = {
        "name": "fid",
        "shown": shown,
        "mean": 3.25,
        "spread": 0.5,
        "better": "lower",
    }
    return {
        "metrics": {"fid": row, "kid": row | {"shown": "KID", "spread": None}},
        "protocol": {"name": "openai", "samples": 50_000},
        "samples": {"n": 1000, "seeds": [0, 1], "sampler": "ddim", "steps": 20},
        "notes": ["too few"],
        "device": "1 x cpu",
        "versions": {"jax": "0.10.1"},
        **more,
    }


def test_a_whole_run_is_told(tmp_path):
    points = [{"step": s, "loss": 1 / s, "grad_norm": 0.5} for s in (10, 20, 30, 40)]
    held = {"step": 40, "held_out_loss": 0.2, "held_out_loss_error": 0.01}
    held |= {f"held_out_loss/t{t}": 1 / (t + 1) for t in (0, 2, 4)}
    workdir = workdir_with(tmp_path, metrics=lines(*points, held))
    write(workdir, "evaluation/openai_at_40.json", evaluation())
    picture = io.BytesIO()
    Image.new("L", (10, 10)).save(picture, "PNG")
    for step in (10, 40):
        write(workdir, f"samples/step_{step:07d}.png", picture.getvalue())
    write(workdir, "drawn/strip.png", picture.getvalue())
    page = made(workdir)
    for part in (
        "complete at step 40",
        "training loss 0.025",
        "held-out loss 0.2",
        "FID 3.25",
        "Protocol openai 1000 images × 2 seeds, ddim, 20 steps, on 1 x cpu",
        "KID 3.25 – lower",
        "too few",
        "train.num_steps 40 800,000",
        "after 40 updates",
        "samples.sampler ddim",
    ):
        assert part in page.text, part
    assert len(page.pictures) == 3
    assert (
        page.tags.count("svg") == 5
    )  # two metrics, the loss by t, two of the schedule
    assert "resumed" not in page.text


def test_a_run_under_way_and_resumed_is_told(tmp_path):
    begun = [{"step": s, "loss": 1.0, "start_seconds": 3.0} for s in (5, 15, 25)]
    text = lines(
        begun[0], {"step": 10, "loss": 9.0}, *begun[1:], {"step": 10, "loss": 2}
    )
    half = '{"step": 30, "lo'
    noise = 'null\n[]\n\x00\n{"step": "5"}\n{"step": 20, "loss": null, "x": "y"}\n'
    page = made(workdir_with(tmp_path, metrics=text + noise + half))
    assert "step 25 of 40" in page.text
    assert "where the run was resumed (15, 25)" in page.text
    assert "highest 2 at 10, not finite 1" in page.text  # the later of two lines
    assert not any(word in page.text for word in ("Evaluation", "Samples", "nan"))


def test_a_run_was_resumed_where_its_starts_say(tmp_path):
    points = [{"step": s, "loss": 1.0} for s in range(1, 40)]
    points[14]["start_seconds"] = points[24]["start_seconds"] = 3.0
    workdir = workdir_with(tmp_path, metrics=lines(*points))
    write(workdir, "starts.json", [{"step": s} for s in (0, 0, 10, 20, 10)])
    assert "where the run was resumed (10, 20)" in made(workdir).text
    # A run that began before there were any.
    write(workdir, "starts.json", [{"step": 20}])
    assert "where the run was resumed (25)" in made(workdir).text


def test_the_figure_at_the_top_tells_of_which_weights_it_is(tmp_path):
    workdir = workdir_with(tmp_path, metrics=lines({"step": 40, "loss": 1.0}))
    record = evaluation()
    record["samples"] |= {"trained steps": 1020, "weights": "ema"}
    write(workdir, "evaluation/a.json", record)
    assert "FID at step 1,020 3.25 " in made(workdir).text
    record["samples"]["weights"] = "raw"
    write(workdir, "evaluation/a.json", record)
    assert "FID, raw weights at step 1,020 3.25 " in made(workdir).text


HUGE = "9" * 400


@pytest.mark.parametrize(
    ("values", "beyond"),
    [
        ((HUGE, "1", "2"), 1),
        ((f"-{HUGE}", "1e-320", "1e300"), 3),
        (("1e-320", "1e300", "5e-324"), 3),
        (("1e308", "-1e308", "1.7e308"), 3),
        (("1e150", "-1e150", "1e-150"), 0),
        (("1e-150", "1e150", "1"), 0),
        (("NaN", "null", "Infinity"), 0),
    ],
)
def test_no_number_is_too_large_or_too_small_for_the_page(values, beyond, tmp_path):
    metrics = "".join(
        f'{{"step": {i}, "loss": {x}, "skipped": {x}, "held_out_loss/t{i}": {x}}}\n'
        for i, x in enumerate((*values, "0.5"), 1)
    )
    metrics += f'{{"step": {HUGE}, "loss": 1}}\n{{"step": -3, "loss": 1}}\n'
    metrics += f'{{"step": 1, "held_out_loss/t{HUGE}": 1, "held_out_loss/t²": 1}}\n'
    workdir = workdir_with(tmp_path, metrics=metrics)
    write(workdir, "starts.json", f'[{{"step": {HUGE}}}]')
    record = json.dumps(evaluation()).replace("3.25", HUGE)
    write(workdir, "evaluation/a.json", record)
    page = made(workdir)
    assert "training loss 0.5" in page.text and "FID – " in page.text
    note = f"metrics.jsonl: {3 * beyond} numbers cannot be drawn"
    assert ("cannot be drawn" in page.text) == (beyond > 0) == (note in page.text)


@pytest.mark.parametrize("error", [RuntimeError, AssertionError])
@pytest.mark.parametrize("chained", [True, False])
def test_without_a_device_there_is_a_page(error, chained, tmp_path, monkeypatch):
    def absent(*_):
        raise error("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(jax, "devices", absent)
    workdir = workdir_with(tmp_path, metrics=lines({"step": 3, "loss": 1.0}))
    page = made(workdir, chain=chained)
    assert "neither the chain nor devices are shown: JAX finds no devices" in page.text
    assert "step 3 " in page.text and "The chain" not in page.text


@pytest.mark.parametrize("name", EVIL)
def test_what_a_run_brings_along_is_escaped(name, tmp_path):
    names = [name, "b", "c"]
    workdir = workdir_with(tmp_path / "<b>&x", class_names=names, num_classes=3)
    write(workdir, "evaluation/<i>.json", evaluation(name, notes=[name], device=name))
    write(workdir, "starts.json", [{"step": 0, "device": name, "versions": {name: 1}}])
    metrics = {name: 1.0, "loss": 2.0}
    write(workdir, "metrics.jsonl", lines(*({"step": s, **metrics} for s in (1, 2))))
    page = made(workdir)
    assert not {"script", "b", "i"} & set(page.tags)
    assert "\x1b" not in page.text
    shown = " ".join(name.replace("\x1b", "\\x1b").split())
    assert page.text.count(shown) >= 5
    assert "<b>&x" in page.text


def test_weights_alone_have_a_page(tmp_path):
    write(tmp_path, "config.json", to_dict(toy_config()))
    (tmp_path / "checkpoints" / "790000").mkdir(parents=True)
    write(tmp_path / "checkpoints" / "790000", "_CHECKPOINT_METADATA", "{}")
    page = made(tmp_path)
    assert "step 790,000 newest checkpoint 790,000" in page.text
    assert "Curves" not in page.text and page.pictures == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"no_section": 1}', "[" * 9999])
def test_what_cannot_be_read_is_a_note_and_no_error(content, tmp_path):
    workdir = workdir_with(tmp_path, metrics=lines({"step": 3, "loss": 1.0}))
    for name in ("config.json", "evaluation/a.json", "starts.json"):
        write(workdir, name, content)
    page = made(workdir, chain=True)
    assert "config.json" in page.text and "the chain is not drawn:" in page.text
    assert "step 3 " in page.text


def test_a_page_shows_so_many_grids_the_first_and_the_last(tmp_path):
    picture = io.BytesIO()
    Image.new("L", (2, 2)).save(picture, "PNG")
    for step in range(1, 31):
        write(tmp_path, f"samples/step_{step:07d}.png", picture.getvalue())
    page = made(workdir_with(tmp_path), grids=4)
    assert re.findall(r"step (\d+)(?= |$)", page.text.split("Samples over")[2])[:4] == [
        *("1", "11", "20", "30")
    ]
    assert "4 of 30 grids." in page.text
    assert len(made(tmp_path, grids=1).pictures) == 1


@pytest.mark.parametrize("kind", ["nothing there", "empty", "a file"])
def test_what_is_no_run_is_one_line(kind, tmp_path, capsys, monkeypatch):
    place = tmp_path / "run"
    if kind == "a file":
        place.write_text("")
    elif kind == "empty":
        place.mkdir()
    monkeypatch.setattr("sys.argv", ["ddpm-report", "--workdir", str(place)])
    with pytest.raises(SystemExit) as ended:
        run("ddpm-report")
    said = capsys.readouterr()
    assert ended.value.code == 1 and said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1
    assert str(place) in said.err
    assert [x for x in tmp_path.rglob("*") if x != place] == []


def test_the_chain_ends_in_what_the_model_draws(small_run, tmp_path):
    model = loading.load(small_run)
    draw = chain.reverse(model)
    sample = model.config.sample
    steps = min(sample.steps or 999, chain.STEPS)
    x = model.sample(0, 3, sampler=sample.sampler, steps=steps, label=[3, 6, 9])
    last = [np.asarray(Image.open(io.BytesIO(row[-1]))) for row in draw.rows[1::2]]
    np.testing.assert_array_equal(last, to_uint8(np.asarray(x))[..., 0])
    assert draw.names == ["3", "6", "9"]
    assert draw.steps == sorted(draw.steps, reverse=True) and draw.steps[-1] == 0
    out = tmp_path / "page.html"
    main(Options(workdir=small_run, out=out))
    page = Checked(out.read_text())
    assert len(page.pictures) >= len(draw.rows) * len(draw.steps)
    assert not (small_run / "report.html").exists()
    assert "trained from step 0" in page.text


def test_a_start_is_added_to_those_before(tmp_path):
    training_report.add_start(tmp_path, 0)
    training_report.add_start(tmp_path, 7)
    starts = json.loads((tmp_path / "starts.json").read_text())
    assert [start["step"] for start in starts] == [0, 7]
    assert "jax" in starts[1]["versions"] and "cpu" in starts[1]["device"]
    write(tmp_path, "starts.json", '{"half')
    training_report.add_start(tmp_path, 9)
    (start,) = json.loads((tmp_path / "starts.json").read_text())
    assert start["step"] == 9
    assert [x["step"] for x in recorded.read(workdir_with(tmp_path)).starts] == [9]


def curve(drawn):
    """The places of a chart's first curve, piece by piece."""
    (path,) = re.findall(r'class="curve"[^>]* d="([^"]*)"', drawn)
    pieces = [piece for piece in path.split("M") if piece and "h0" not in piece]
    return [[tuple(map(float, p.split())) for p in x.split("L")] for x in pieces]


@pytest.mark.parametrize("log", [False, True])
def test_a_curve_goes_up_where_its_values_do(log):
    values = [0.01, 0.1, 1.0, 10.0]
    drawn = charts.chart([charts.Line(list(enumerate(values)))], log=log)
    (places,) = curve(drawn)
    x, y = np.transpose(places)
    assert (np.diff(x) > 0).all() and (np.diff(y) < 0).all()
    assert charts.LEFT <= x.min() and x.max() <= charts.WIDTH - charts.RIGHT
    assert charts.TOP <= y.min() and y.max() <= charts.HEIGHT - charts.BOTTOM
    steps = np.diff(y)
    assert np.allclose(steps, steps[0], atol=0.11) == log  # powers are evenly spaced
    assert "<title>step 2: 1</title>" in drawn


def test_what_is_not_finite_is_a_gap():
    points = list(enumerate([1.0, 2.0, math.nan, 1.0, 2.0, math.inf]))
    assert list(map(len, curve(charts.chart([charts.Line(points)])))) == [2, 2]
    assert charts.chart([charts.Line([(1, math.nan), (2, 3.0)])]) == ""
    assert charts.chart([charts.Line([])]) == ""


@pytest.mark.parametrize(
    "values",
    [[0.0, 0.0], [5.0, 5.0], [-1.0, 1.0], [1e-30, 1e30], [0.0, 1e-9], [-3.0, -3.0]],
)
def test_any_values_have_ticks_inside(values):
    for zero in (False, True):
        drawn = charts.chart([charts.Line(list(enumerate(values)))], zero=zero)
        ticks = [
            float(y) for y in re.findall(r'class="rule"[^>]*y1="([\d.-]+)"', drawn)
        ]
        assert 2 <= len(ticks) <= 8
        assert charts.TOP <= min(ticks) and max(ticks) <= charts.HEIGHT - charts.BOTTOM


def test_many_points_keep_their_mean_and_their_end():
    points = [(step, float(step % 7)) for step in range(1, 2001)]
    few = charts.thinned(points)
    assert len(few) == charts.POINTS and few[-1][0] == 2000
    assert np.mean([y for _, y in few]) == pytest.approx(
        np.mean([y for _, y in points])
    )


@pytest.mark.parametrize(
    ("value", "told"),
    [
        *((0.0748, "0.0748"), (786.5, "786"), (1234.0, "1,234"), (12_345.0, "12.3k")),
        *((989e12, "989T"), (2.5e-7, "2.5e-07"), (0.0, "0"), (-3.0, "-3")),
    ],
)
def test_short_numbers(value, told):
    assert charts.short(value) == told


def test_fields_are_told_with_their_defaults(tmp_path):
    config = small_config()
    write(tmp_path, "config.json", to_dict(config))
    text = made(tmp_path).text
    assert "network.multipliers 1 1 2" in text
    assert "network.attention_resolutions none 4" in text
    assert "train.num_steps 2 800,000" in text
