"""Imports run one way, and the mathematics drags nothing along."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / "ddpm_jax"

# What each part of the house may import of ours; a part may always import itself.
MAY_IMPORT = {
    "diffusion": set(),
    "networks": set(),
    "allocator": set(),
    "checks": set(),
    "text": set(),
    "network_config": {"checks"},
    "config": {"checks", "network_config"},
    "files": set(),
    "streams": set(),
    "progress": set(),
    "mesh": set(),
    "profiling": {"checks"},
    "flops": set(),
    "images": {"files"},
    "data": set(),
    "build": {"checks", "config", "data", "diffusion", "networks"},
    "processes": set(),
    "experiments": {"config"},
    "command": {
        "allocator",
        "config",
        "experiments",
        "files",
        "processes",
        "profiling",
        "text",
    },
    "ownership": {"processes"},
    "export": {"config", "diffusion"},
    "model": {
        *("build", "config", "data", "diffusion", "export", "images", "mesh"),
        "networks",
    },
    "training": {
        *("build", "config", "data", "diffusion", "evaluation", "files", "flops"),
        *("images", "mesh", "model", "networks", "ownership", "processes"),
        *("profiling", "progress", "text"),
    },
    "drawing": {
        *("build", "checks", "files", "images", "model", "ownership", "processes"),
        "progress",
    },
    "interop": {"build", "config", "diffusion", "networks", "text"},
    "loading": {
        *("build", "config", "files", "interop", "model", "networks", "training"),
    },
    "evaluation": {
        *("build", "checks", "config", "data", "diffusion", "drawing", "files"),
        *("images", "interop", "mesh", "model", "processes", "progress", "text"),
    },
    "figures": {
        *("build", "checks", "command", "config", "data", "diffusion", "evaluation"),
        *("files", "images", "loading", "model", "ownership", "streams"),
    },
    "report": {
        *("build", "checks", "config", "diffusion", "evaluation", "figures"),
        *("images", "model", "text", "training"),
    },
    "commands": {
        *("command", "drawing", "evaluation", "interop", "loading", "processes"),
        *("profiling", "report", "streams", "training"),
    },
    "__init__": {"loading", "model", "training"},
}
# What `python -m` runs stands on top, in whatever room it lies.
SCRIPTS = {
    *("build", "command", "config", "drawing", "files", "loading", "ownership"),
    *("streams", "text", "training"),
}
# Where a library may be imported; what is not listed here is free.
HOMES = {
    "flax": {"evaluation", "networks", "training", "interop"},
    "optax": {"evaluation/classifier", "training"},
    "orbax": {"training/checkpoints"},
    "tensorflow_datasets": {"data"},
    "grain": {"data"},
    "tensorboardX": {"training"},
    "wandb": {"training/services"},
    "mlflow": {"training/services"},
    "matplotlib": {"evaluation", "figures"},
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield parts, ast.parse(path.read_text())


def imported(tree):
    """Names; of a relative import, which stays in its room, none."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            if node.module == "ddpm_jax":
                yield from (f"ddpm_jax.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize(
    ("parts", "tree"),
    list(modules()),
    ids=lambda x: "/".join(x) if type(x) is tuple else "",
)
def test_imports_run_one_way(parts, tree):
    here = parts[0]
    allowed_here = MAY_IMPORT[here]
    if parts[-1] == "__main__":
        allowed_here = allowed_here | SCRIPTS
    for name in imported(tree):
        root, _, rest = name.partition(".")
        if root == "ddpm_jax" and rest:
            theirs = rest.split(".")[0]
            assert theirs == here or theirs in allowed_here, name
        if root in HOMES:
            path = "/".join(parts)
            assert any(path.startswith(home) for home in HOMES[root]), name
        assert not name.startswith("jax._src"), name
        if here == "diffusion":
            allowed = {"jax", "numpy", *sys.stdlib_module_names}
            assert root in allowed, name


def in_a_new_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_mathematics_needs_jax_and_numpy_alone():
    code = "import sys, ddpm_jax.diffusion; print(*sys.modules)"
    loaded = {name.split(".")[0] for name in in_a_new_process(code).split()}
    assert "jax" in loaded
    heavy = {"flax", "optax", "orbax", "tensorflow_datasets", "grain", "array_record"}
    assert not loaded & (heavy | {"PIL", "tqdm", "tyro", "matplotlib", "tensorflow"})


def test_importing_touches_no_device():
    """A cluster must be able to initialise itself after the imports."""
    in_a_new_process(
        "import socket, jax\n"
        "import ddpm_jax, ddpm_jax.loading, ddpm_jax.training.loop\n"
        "port = socket.create_server(('127.0.0.1', 0)).getsockname()[1]\n"
        "jax.distributed.initialize(f'127.0.0.1:{port}', 1, 0)\n"
    )
