"""Every public name says what it is, its shapes, its errors and its source."""

import ast
import builtins
import importlib
import re
from collections.abc import Iterator

import pytest
from documented import (
    Name,
    method,
    parsed,
    public_modules,
    public_names,
    public_values,
)
from raising import raised

NAMES = {name.path: name for name in public_names()}

# How docstrings name the axes of arrays; what is in a shape is one of these.
AXES = set(
    "batch b n num count data T S h w c i j e levels moves history features channels "
    "out_channels batch_size pixels heads dim shape d m k x y in out height width "
    "num_examples images process_count rows t bins classes grid side steps S".split()
)
ELEMENT = r"(?:\*?[A-Za-z_]\w*'?(?:\.shape)?|\d+|\.\.\.)"
SHAPE = re.compile(
    rf"(?<!\w)\(((?:\d+ ?\* ?)?{ELEMENT}(?: ?[*/+-] ?\w+)*(?:, (?:\d+ ?\* ?)?{ELEMENT}"
    rf"(?: ?[*/+-] ?\w+)*|,)*|)\)"
)
ARRAY = re.compile(r"\b(Array|ndarray|ArrayLike)\b")

# A year or one of the methods' names: where the mathematics is from.
SOURCE = re.compile(
    r"\b(19|20)\d\d[ab]?\b|\bDDPM|\bDDIM|DPM-Solver|diffusers|guided.diffusion"
    r"|[Tt]his package"
)
# Modules and rooms of mathematics, metrics and layers, where every name has a source,
SOURCED = (
    *("diffusion", "networks", "evaluation.frechet", "evaluation.kernel"),
    *("evaluation.inception_score", "evaluation.neighbours", "evaluation.sliced"),
    *("evaluation.resize", "evaluation.inception", "evaluation.dinov2"),
)
# but for what only carries it: names, or whole modules.
PLUMBING = (
    *("diffusion.closures", "diffusion.noise", "diffusion.denoiser"),
    *("diffusion.betas.checked_betas", "diffusion.schedules.lookup"),
    *("diffusion.schedules.at", "diffusion.schedules.per_example"),
    *("diffusion.schedules.concrete", "diffusion.variances.Variance"),
    *("diffusion.variances.as_variance", "diffusion.parametrisations.Prediction"),
    *("diffusion.gaussians.Gaussian", "diffusion.losses.mean_over_data"),
    *("diffusion.likelihood.BitsPerDim", "diffusion.likelihood.StepTerms"),
    *("diffusion.importance.StepSampler", "diffusion.importance.LossHistory"),
    *("diffusion.samplers.base", "diffusion.samplers.loop"),
    *("diffusion.samplers.dpm_solver.MultistepState",),
    *("diffusion.samplers.dpm_solver.multistep_start",),
    *("diffusion.samplers.dpm_solver.remember",),
    *("diffusion.samplers.dpm_solver.allowed_order",),
    *("diffusion.samplers.unipc.UnipcState", "networks.initial"),
    *("networks.convolutions.conv", "networks.convolutions.direct"),
    *("networks.convolutions.direct_upsampled", "evaluation.frechet.factor"),
    *("evaluation.frechet.check_gaussian", "evaluation.neighbours.distances"),
    *("evaluation.neighbours.nearest_distances", "evaluation.inception.shapes"),
    *("evaluation.inception.load", "evaluation.dinov2.load"),
)

# Where Args name every parameter.
ROOMS = (
    *("diffusion", "networks", "model", "loading", "images", "build", "export"),
    *("data.arrays", "data.batches", "data.digits", "data.folder", "data.sources"),
    *("evaluation.frechet", "evaluation.kernel", "evaluation.inception_score"),
    *("evaluation.neighbours", "evaluation.sliced", "evaluation.moments"),
)
COMPLETE = tuple(f"ddpm_jax.{room}" for room in ROOMS)
# Where constants and types have a docstring, too.
VALUED = [
    x
    for x in public_modules()
    if x.startswith(tuple(f"ddpm_jax.{room}" for room in ROOMS[:7]))
]

# The most used ones, each with an example that `test_doctests` runs.
MOST_USED = {
    "diffusion": """
        schedules: Schedule make_schedule
        betas: linear_betas cosine_betas quadratic_betas constant_betas warmup_betas
            jsd_betas sigmoid_betas zero_terminal_snr
        spacing: spaced_timesteps
        solver_spacing: log_snr_positions karras_positions interpolated_schedule
        transitions: q_step q_sample q_mean_variance q_posterior p_mean_variance
            p_sample
        variances: fixed_small fixed_large learned_range
        parametrisations: Parametrisation velocity
        gaussians: kl_divergence discretized_log_likelihood
        closures: Closure
        denoiser: Denoiser denoiser split_output
        losses: simple_loss vlb_term hybrid_loss prior_bpd min_snr p2
        importance: uniform_steps loss_second_moment
        likelihood: bits_per_dim
        guidance: clip_static clip_dynamic classifier_free
        editing: image_to_image interpolate slerp
        inpainting: inpaint
        samplers.base: Sampler
        samplers.ddpm: ddpm
        samplers.ddim: ddim ddim_invert
        samplers.dpm_solver: dpm_solver_pp
        samplers.heun: heun
        samplers.unipc: unipc
        samplers.loop: sample sample_iter
    """,
    "networks": """
        unet: UNet
        embeddings: time_embedding
        presets: ddpm_cifar10
    """,
    "": """
        model: Model
        loading: load
        build: make_schedule make_sampler make_network
        config: Config from_dict differences
        experiments: shipped read_config
        images: to_uint8 grid strip save_png
        data.batches: batch_indices to_float
        data.digits: load_digits
        data.folder: load_folder
        data.labels: natural_order relabelled
        evaluation.frechet: frechet_distance
        evaluation.inception_score: inception_score
        evaluation.kernel: kernel_distance
        evaluation.moments: moments
        evaluation.neighbours: precision_recall
        evaluation.sliced: sliced_wasserstein
    """,
}


def most_used() -> Iterator[str]:
    """Their paths."""
    for room, lines in MOST_USED.items():
        package = f"ddpm_jax.{room}".rstrip(".")
        for module, names in re.findall(r"([\w.]+):([^:]*)(?=\s[\w.]+:|$)", lines):
            yield from (f"{package}.{module}.{name}" for name in names.split())


@pytest.mark.parametrize("path", NAMES)
def test_a_public_name_is_documented(path):
    name = NAMES[path]
    broken = [*_summary(name), *_arguments(name), *_source(name), *_errors(name)]
    if isinstance(name.node, ast.FunctionDef):
        broken += _shapes(name)
    else:
        broken += _fields(name)
    assert not broken, f"{name.file}:{name.line + 1}: {path}: {'; '.join(broken)}"


@pytest.mark.parametrize("module", VALUED)
def test_constants_and_types_are_documented(module):
    assert not [name for name, said in public_values(module) if not said]


def _summary(name: Name) -> Iterator[str]:
    """What it is, in a sentence."""
    text = name.docstring or ""
    first = text.split("\n\n")[0]
    if not first.strip():
        yield "there is no docstring"
    elif not first.rstrip().endswith((".", ":", ",", ")")) and len(text) > len(first):
        yield f"the first paragraph is no sentence: {first!r}"


def _shapes(name: Name) -> Iterator[str]:
    """The shapes of the arrays that it takes and returns."""
    annotations = [x.annotation for x in _parameters(name.node)] + [name.node.returns]
    arrays = any(x is not None and ARRAY.search(ast.unparse(x)) for x in annotations)
    if arrays and not _has_shape(name.docstring or ""):
        yield "no shape is named for its arrays"


def _fields(name: Name) -> Iterator[str]:
    """The shapes of the arrays that it is made of."""
    fields = [x for x in name.node.body if isinstance(x, ast.AnnAssign)]
    arrays = [x for x in fields if _is_array(ast.unparse(x.annotation))]
    lines = name.file.read_text().splitlines()
    beside = "\n".join(lines[x.lineno - 1] for x in arrays)
    if arrays and not _has_shape(f"{name.docstring}\n{beside}"):
        yield "no shape is named for its arrays"
    if "Attributes:" in (name.docstring or ""):
        said = set(_section(name.docstring, "Attributes"))
        there = {x.target.id for x in fields if isinstance(x.target, ast.Name)}
        if said - there - {"x"}:
            yield f"Attributes that it has not: {', '.join(sorted(said - there))}"


def _arguments(name: Name) -> Iterator[str]:
    """The parameters that Args lists are there, and are all where arrays are taken."""
    said = _section(name.docstring or "", "Args")
    node = name.node
    if isinstance(node, ast.ClassDef):
        node = method(node, "__init__")
    if node is None or not (said or isinstance(name.node, ast.FunctionDef)):
        return
    there = [x.arg for x in _parameters(node)]
    if node is not name.node or name.owner is not None:
        there = there[1:]  # self, cls
    if stale := [x for x in said if x not in there]:
        yield f"Args that it does not take: {', '.join(stale)}"
    missing = [x for x in there if x not in said]
    if missing and name.module.startswith(COMPLETE):
        yield f"Args lack {', '.join(missing)}"


def _errors(name: Name) -> Iterator[str]:
    """The errors that it raises, and those of the checks that it calls."""
    text = name.docstring or ""
    bodies = [name.node]
    if isinstance(name.node, ast.ClassDef):
        bodies = [method(name.node, "__init__"), method(name.node, "__post_init__")]
    owner = name.owner or name.node
    found = {x for body in bodies if body for x in raised(name.module, body, owner)}
    for error in sorted(found):
        kinds = getattr(builtins, error, Exception).__mro__[:-3] or (Exception,)
        said = any(kind.__name__ in text for kind in kinds) or error in text
        if not said or not re.search(r"\b[Rr]aise[sd]?\b", text):
            yield f"it raises {error}, which is not said"


def _source(name: Name) -> Iterator[str]:
    """The paper, equation or code that its mathematics is from."""
    path = f"{name.path.removeprefix('ddpm_jax.')}."
    sourced = path.startswith(tuple(f"{each}." for each in SOURCED))
    if not sourced or path.startswith(tuple(f"{each}." for each in PLUMBING)):
        return
    owner = ast.get_docstring(name.owner) if name.owner else None
    if not SOURCE.search(" ".join(f"{name.docstring} {owner}".split())):
        yield "no source is named"


def _is_array(annotation: str) -> bool:
    return bool(ARRAY.search(annotation)) and "Callable" not in annotation


def _has_shape(text: str) -> bool:
    if re.search(r"of any shape|of (the|that) shape|of one shape|the shape of", text):
        return True
    for inside in SHAPE.findall(text):
        if inside and "," not in inside:
            continue  # a year, a remark
        words = re.findall(r"[A-Za-z_]\w*", inside.replace(".shape", ""))
        if all(word in AXES for word in words):
            return True
    return False


def _section(text: str, title: str) -> list[str]:
    """The names that a section lists."""
    found = re.search(rf"^{title}:\n((?: .*\n|\n)*)", f"{text}\n", re.MULTILINE)
    lines = found.group(1).splitlines() if found else []
    return re.findall(r"^    (\*{0,2}\w+(?:, \w+)*):", "\n".join(lines), re.MULTILINE)


def _parameters(node: ast.FunctionDef) -> list[ast.arg]:
    arguments = node.args
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    listed += [x for x in (arguments.vararg, arguments.kwarg) if x is not None]
    return listed


def test_the_most_used_names_have_an_example():
    paths = list(most_used())
    assert len(paths) == len(set(paths)) >= 60
    missing = [x for x in paths if ">>>" not in (NAMES[x].docstring or "")]
    assert not missing


def test_names_imported_when_used_have_the_types_of_their_homes():
    """What `__getattr__` finds, `TYPE_CHECKING` imports; else its type is Any."""
    for package in ("ddpm_jax", "ddpm_jax.data"):
        module = importlib.import_module(package)
        (typed,) = (x for x in parsed(package).body if isinstance(x, ast.If))
        imports = [x for x in typed.body if isinstance(x, ast.ImportFrom)]
        homes = {y.asname: f"{x.module}.{y.name}" for x in imports for y in x.names}
        assert sorted(homes) == sorted(module.__all__)
        for name, home in homes.items():
            found, path = getattr(module, name), home.rpartition(".")
            assert found is getattr(importlib.import_module(path[0]), path[2])
