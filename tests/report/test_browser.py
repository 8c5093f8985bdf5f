"""The page of a run in a browser: nothing overflows, nothing is broken or blocked."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.report.__main__ import Options, main

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} here"),
]
# The page holds no script itself, so it is measured from outside.
FRAME = """<!DOCTYPE html><body><script>
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map((frame) => {
    const page = frame.contentDocument, root = page.documentElement;
    const images = [...page.images];
    const inside = (x) => x.closest(".wide") || x.closest("svg");
    const over = [...page.querySelectorAll("main *")].filter(
      (x) => !inside(x) && x.getBoundingClientRect().right > root.clientWidth + 1);
    return {
      width: root.clientWidth, scrolls: root.scrollWidth,
      broken: images.filter((x) => !x.naturalWidth).length, images: images.length,
      over: over.map((x) => x.outerHTML.slice(0, 80)),
      charts: [...page.querySelectorAll("svg")].map(
        (x) => x.getBoundingClientRect().width),
      loaded: frame.contentWindow.performance.getEntriesByType("resource")
        .map((x) => x.name).filter((x) => !x.startsWith("data:")),
    };
  });
  document.body.innerHTML = "<pre></pre>";
  document.querySelector("pre").textContent = JSON.stringify(found);
});
</script>%s</body>"""


def browse(*arguments):
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", *arguments],
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.decode()


@pytest.fixture(scope="module")
def page(small_run, tmp_path_factory):
    """The page of a run with a long history."""
    workdir = tmp_path_factory.mktemp("browsed") / ("a_run_with_a_long_name_" * 4)
    workdir.mkdir(parents=True)
    for path in small_run.iterdir():
        if path.name != "metrics.jsonl":
            (workdir / path.name).symlink_to(path)
    values = {"loss": 0.1, "images_per_second": 1e5, "held_out_loss": 0.2}
    values |= {f"held_out_loss/t{t}": 0.1 / (1 + t) for t in range(0, 20, 4)}
    lines = [json.dumps({"step": s, **values}) for s in range(100, 90_000, 100)]
    (workdir / "metrics.jsonl").write_text("\n".join(lines))
    row = {"shown": "a long name of a metric " * 2, "mean": 123.456, "spread": 1e-5}
    record = {"metrics": {"x": row}, "notes": ["a note " * 30]}
    record |= {"protocol": {"name": "p" * 60}, "samples": {"n": 1, "model": "0" * 64}}
    (workdir / "evaluation").mkdir()
    (workdir / "evaluation" / f"{'long_' * 30}.json").write_text(json.dumps(record))
    main(Options(workdir=workdir))
    return workdir / "report.html"


def test_it_fits_every_width_and_loads_nothing(page, tmp_path):
    widths = (320, 390, 768, 1280, 1920)
    text = html.escape(page.read_text())
    frames = (
        f'<iframe srcdoc="{text}" width="{w}" height="900"></iframe>' for w in widths
    )
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME % "".join(frames))
    dumped = browse("--virtual-time-budget=20000", "--dump-dom", f"file://{frame}")
    (measured,) = re.findall("<pre>(.*?)</pre>", dumped, re.S)
    found = json.loads(html.unescape(measured))
    assert len(found) == len(widths)
    for each, width in zip(found, widths, strict=True):
        assert width - 20 <= each["width"] <= width
        assert each["scrolls"] == each["width"], each["over"]
        assert each["over"] == [] and each["loaded"] == []
        assert each["images"] > 10 and each["broken"] == 0
        assert len(each["charts"]) >= 5 and min(each["charts"]) >= 220


@pytest.mark.parametrize(("scheme", "dark"), [(0, True), (1, False)])
def test_it_is_seen_in_light_and_in_dark(scheme, dark, page, tmp_path):
    shot = tmp_path / "shot.png"
    browse(
        *(f"--screenshot={shot}", "--window-size=1280,900", "--hide-scrollbars"),
        *(f"--blink-settings=preferredColorScheme={scheme}", f"file://{page}"),
    )
    grey = np.asarray(Image.open(shot).convert("L"))
    assert grey.shape == (900, 1280)
    corner, middle = int(grey[2, 2]), grey[20:80, 50:400]
    assert (corner < 40) if dark else (corner > 240)
    assert abs(int(middle.min()) - int(middle.max())) > 150  # the heading is legible
