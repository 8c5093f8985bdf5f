"""What a log and TensorBoard get of a run, and how fast it says that it is."""

import json
import struct

import numpy as np
import pytest

from ddpm_jax.training import events, report

METRICS = {"loss": 0.5, "grad_norm": 1.0}


def new_report(workdir, **options):
    options = {"num_steps": 100, "batch_size": 8, "log_every": 1, **options}
    tracker = events.Events(workdir / "tensorboard", 0)
    return report.Report(workdir, first_step=0, tracker=tracker, **options)


def speeds(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return np.array([json.loads(line)["images_per_second"] for line in lines])


@pytest.mark.parametrize("ahead", [0, 2])
@pytest.mark.parametrize("in_dispatch", [False, True])
def test_the_speed_is_that_of_the_updates(tmp_path, monkeypatch, ahead, in_dispatch):
    """As the loop sees it: some updates run ahead; before a save all are waited for.

    An update takes a tenth of a second, on the device or in the call that starts it, a
    compilation 30 seconds, a save 10.
    """
    now, device = 0.0, 0.0  # the host's clock, and until when the device is busy
    monkeypatch.setattr(report.time, "perf_counter", lambda: now)
    told = new_report(tmp_path)
    pending = []

    def check(ahead):
        nonlocal now
        while len(pending) > ahead:
            step, ends = pending.pop(0)
            now = max(now, ends) + 1e-5
            told.step(step, METRICS)

    now = 30.0
    for step in range(1, 101):
        device = max(device, now) + 0.1
        if in_dispatch:
            now = device
        pending.append((step, device))
        check(ahead)
        if step % 10 == 0:
            check(0)
            now += 10.0
        if step % 10 == 0 or step == 1:
            told.restart_clock()
    told.close()
    assert len(speeds(tmp_path)) == 100
    assert speeds(tmp_path)[2:].max() < 80 * 1.6
    np.testing.assert_allclose(speeds(tmp_path)[30:], 80, rtol=0.16)
    np.testing.assert_allclose(speeds(tmp_path)[30:].mean(), 80, rtol=0.02)


def test_a_log_gets_a_line_for_every_line_of_metrics(tmp_path, capsys):
    """Captured, stderr is no terminal."""
    told = new_report(tmp_path, log_every=5)
    for step in range(1, 11):
        told.step(step, METRICS)
    told.close()
    said = capsys.readouterr().err
    assert "\r" not in said
    lines = said.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("step 5 of 100, loss 0.5000, ")
    assert lines[1].startswith("step 10 of 100") and lines[1].endswith(" images/s")


def test_a_line_of_metrics_is_the_mean_since_the_last(tmp_path):
    told = new_report(tmp_path, log_every=3)
    for step in range(1, 7):
        told.step(step, METRICS | {"loss": float(step), "grad_norm": step / 2})
    told.close()
    written = (tmp_path / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in written]
    assert [line["step"] for line in lines] == [3, 6]
    assert [line["loss"] for line in lines] == [2.0, 5.0]
    assert [line["grad_norm"] for line in lines] == [1.5, 3.0]


def test_a_terminal_gets_a_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "watched", lambda: True)
    told = new_report(tmp_path)
    told.step(1, METRICS)
    told.close()
    said = capsys.readouterr().err
    assert "1/100" in said and "loss 0.5000" in said and "step 1 of" not in said


def records(directory):
    """The events of TensorBoard's files: length, sum, content, sum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            yield Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]


def test_tensorboard_gets_the_curves_and_the_pictures(tmp_path):
    told = new_report(tmp_path)
    told.step(7, METRICS)
    told.picture("samples", np.zeros((2, 3, 1), np.uint8), 7)
    told.close()
    told._tracker.close("finished")
    found = list(records(tmp_path / "tensorboard"))
    # A resumed run hides what an earlier process wrote of its steps.
    assert found[2].session_log.status == 1 and found[2].step == 1
    values = [(x.step, v) for x in found for v in x.summary.value]
    assert {(step, v.tag) for step, v in values if v.tag != "samples"} == {
        *((7, name) for name in ("step", "loss", "grad_norm", "images_per_second"))
    }
    picture = next(v.image for _, v in values if v.tag == "samples")
    assert (picture.height, picture.width) == (2, 3)


class Full:
    """A file on a disk without room."""

    def write(self, content):
        raise OSError(28, "No space left on device")

    def flush(self):
        self.write(b"")

    def close(self):
        pass


def test_a_full_disk_is_one_error_that_names_the_file(tmp_path, monkeypatch):
    told = new_report(tmp_path)
    monkeypatch.setattr(told, "_file", Full())
    with pytest.raises(OSError, match=rf"No space left.*{tmp_path}/metrics\.jsonl"):
        told.step(1, METRICS)
    told.close()

    told = new_report(tmp_path)
    monkeypatch.setattr(events, "FLUSH_EVERY", 0.0)
    monkeypatch.setattr(told._tracker._writer._py_recordio_writer, "_writer", Full())
    with pytest.raises(OSError, match=rf"No space left.*{tmp_path}/tensorboard"):
        told.step(1, METRICS)
    with pytest.raises(OSError, match=rf"No space left.*{tmp_path}/tensorboard"):
        told._tracker.close("failed")
    told.close()
