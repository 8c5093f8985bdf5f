"""The same steps by PyTorch and diffusers' `UNet2DModel`, for `against_pytorch.py`.

Written as a careful user of PyTorch would: the fastest of its optimisers and averages,
no scheduler objects, tables and noise on the device, no copies to the host.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable

import numpy as np
from workers import milliseconds, serve, warm

try:
    import diffusers
    import torch
    from diffusers.training_utils import EMAModel
except ImportError as error:
    missing = error.name or str(error)
else:
    missing = ""


class Side:
    """One configuration in one layout, and what was prepared of it."""

    def __init__(self) -> None:
        self.calls: dict = {}
        self.once: dict[str, float] = {}

    def open(
        self,
        folder: str,
        channels_last: bool,
        compiled: bool,
        dtype: str,
        train: dict,
    ) -> dict:
        """Reads the exported weights: how far is one call, and one walk, from ours."""
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_float32_matmul_precision(
            "high" if self.device == "cuda" else "highest"
        )
        torch.backends.cudnn.benchmark = True
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.dtype, self.compiled, self.train = dtype, compiled, train
        place = pathlib.Path(folder)
        diffusers.utils.logging.set_verbosity_error()
        unet = diffusers.UNet2DModel.from_pretrained(str(place / "model" / "unet"))
        self.unet = unet.to(self.device, memory_format=self.layout)
        self.network = self._made(self.unet)
        with np.load(place / "expected.npz") as file:
            self.expected = {name: self._tensor(file[name]) for name in file.files}
        return {"agreement": self._agreement()}

    def _made(self, function: Callable) -> Callable:
        if not self.compiled:
            return function
        return torch.compile(function, mode="max-autotune")

    def _tensor(self, array: np.ndarray) -> "torch.Tensor":
        if array.ndim == 4:
            tensor = torch.from_numpy(array).permute(0, 3, 1, 2)
            return tensor.to(self.device).contiguous(memory_format=self.layout)
        tensor = torch.from_numpy(array).to(self.device)
        return tensor if tensor.is_floating_point() else tensor.long()

    def _precision(self) -> contextlib.AbstractContextManager:
        if self.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device, getattr(torch, self.dtype))

    def _agreement(self) -> dict[str, float]:
        known = self.expected
        self.unet.eval()
        with torch.inference_mode(), self._precision():
            output = self.unet(known["x"], known["t"], known.get("label")).sample
        return {
            "output": relative_rms(output, known["output"]),
            "sample": relative_rms(self._sample(self.unet), known["sample"]),
        }

    def _sample(self, network: Callable) -> "torch.Tensor":
        """DDIM's walk with eps predicted and x0 clipped."""
        known, x = self.expected, self.expected["x"]
        signal, before = known["alphas_cumprod"], known["alphas_cumprod_prev"]
        a, s = signal.sqrt(), (1 - signal).sqrt()
        a_next, s_next = before.sqrt(), (1 - before).sqrt()
        with torch.inference_mode(), self._precision():
            for i in reversed(range(len(signal))):
                t = known["timesteps"][i].expand(len(x))
                eps = network(x, t, known.get("label"), return_dict=False)[0].float()
                x0 = ((x - s[i] * eps) / a[i]).clamp(-1, 1)
                eps = (x - a[i] * x0) / s[i]
                x = a_next[i] * x0 + s_next[i] * eps
        return x

    def prepare(self, step: str) -> dict:
        """Warms the step up, and chooses the fastest of what PyTorch has for it."""
        choices = {}
        if step == "train":
            update, choices = self._training()
            self.calls[step] = update
        else:
            self.calls[step] = self._sampling
        told = warm(self.calls[step], self._wait)
        self.once[step] = told["once_ms"]
        return {"first_s": told["first_s"], **choices}

    def _sampling(self) -> "torch.Tensor":
        self.unet.eval()
        return self._sample(self.network)

    def _wait(self, _=None) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _training(self) -> tuple[Callable, dict]:
        """(one update, which optimiser and average it has)."""
        params = list(self.unet.parameters())
        loss, batch = self._made(self._loss), self._batch()

        def backward():
            self.unet.train()
            with self._precision():
                value = loss(*batch)
            value.backward()
            if self.train["clip_norm"] is not None:
                limit = self.train["clip_norm"]
                torch.nn.utils.clip_grad_norm_(params, limit, foreach=True)
            return value

        backward()
        rate, kind = self.train["learning_rate"], torch.optim.Adam
        adams = {
            name: kind(params, lr=rate, **{name: True}) for name in ("fused", "foreach")
        }
        adam, adam_ms = self._fastest({k: v.step for k, v in adams.items()})
        average = [p.detach().clone() for p in params]
        decay = self.train["ema_decay"]
        theirs = EMAModel(params, decay=decay, foreach=True)
        averages = {
            "foreach_lerp": lambda: torch._foreach_lerp_(average, params, 1 - decay),
            "diffusers": lambda: theirs.step(params),
        }
        with torch.no_grad():
            ema, ema_ms = self._fastest(averages)

        def update():
            adams[adam].zero_grad(set_to_none=True)
            value = backward()
            adams[adam].step()
            with torch.no_grad():
                averages[ema]()
            return value

        return update, {"adam": adam, "adam_ms": adam_ms, "ema": ema, "ema_ms": ema_ms}

    def _fastest(self, calls: dict[str, Callable]) -> tuple[str, dict[str, float]]:
        """The name of the quickest call, and the milliseconds of each, by turns."""
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(6):
            for name, call in calls.items():
                began = time.perf_counter()
                call()
                self._wait()
                times[name].append(1e3 * (time.perf_counter() - began))
        medians = {name: float(np.median(ms[1:])) for name, ms in times.items()}
        return min(medians, key=medians.__getitem__), medians

    def _batch(self) -> tuple:
        """Images in -1..1 and labels, ready on the device."""
        return self.expected["x"].clamp(-1, 1), self.expected.get("label")

    def _loss(self, x0: "torch.Tensor", label: "torch.Tensor | None") -> "torch.Tensor":
        """q_sample and the mean squared error of eps; labels hidden now and then."""
        signal = self.expected["trained_on"]
        t = torch.randint(0, len(signal), (len(x0),), device=self.device)
        noise = torch.randn_like(x0)
        a, s = (x.sqrt()[t][:, None, None, None] for x in (signal, 1 - signal))
        if label is not None and self.train["label_dropout"]:
            hidden = torch.rand(len(x0), device=self.device)
            hidden = hidden < self.train["label_dropout"]
            label = torch.where(hidden, self.train["null_label"], label)
        eps = self.unet(a * x0 + s * noise, t, label, return_dict=False)[0]
        return torch.nn.functional.mse_loss(eps.float(), noise)

    def turn(self, step: str, seconds: float) -> dict:
        """Milliseconds of one step."""
        ms = milliseconds(self.calls[step], self._wait, seconds, self.once[step])
        steps = len(self.expected["timesteps"])
        return {"ms": ms / (1 if step == "train" else steps)}


def relative_rms(found: "torch.Tensor", expected: "torch.Tensor") -> float:
    """The error's root mean square over that of what is expected."""
    error = (found.float() - expected).square().mean() / expected.square().mean()
    return float(error.sqrt())


def environment() -> dict:
    """What of PyTorch the figures belong to.

    Raises:
        SystemExit: if it is not installed.
    """
    if missing:
        raise SystemExit(
            f"no {missing} in this Python: pip install 'torch==2.13.0' diffusers"
        )
    cuda = torch.cuda.is_available()
    return {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "torch_threads": torch.get_num_threads(),
        "torch_device": torch.cuda.get_device_name() if cuda else "cpu",
    }


if __name__ == "__main__":
    side = Side()
    serve(
        {
            "environment": environment,
            "open": side.open,
            "prepare": side.prepare,
            "turn": side.turn,
        }
    )
