"""The documentation's own tools find what they are for, and its pages say what is so.

.ci/docs runs the blocks of the pages, builds the site and checks it.
"""

import ast
import importlib
import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture
def tool(monkeypatch):
    """A module of docs/tools by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "tools"))
    return importlib.import_module


def messages():
    """Texts within the package, with a zero byte for what is put into them."""
    for file in (ROOT / "ddpm_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (
                    x.value if isinstance(x, ast.Constant) else "\0"
                    for x in node.values
                )
                yield "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_the_options_page_is_that_of_the_configs(tool):
    page = (ROOT / "docs" / "config.md").read_text()
    assert page == tool("options").page()
    assert "|  |" not in page  # every field has its meaning
    assert "| `--train.batch-size` | whole number | `128` | images per update" in page
    assert "| `--data.flip` | switch | off | mirror each training image" in page


def test_the_errors_that_the_guide_explains_are_those_of_the_program():
    page = (ROOT / "docs" / "how_to" / "troubleshooting.md").read_text()
    headings = re.findall(r"^### `(.+)`$", page, re.M)
    assert len(headings) > 60
    headings.remove("Unrecognized options: --train.batch-sise")  # tyro's
    said = "\n".join(messages())
    for heading in headings:
        parts = re.split(r"\b(?:[A-Z]{4,}|WxH|N)\b", heading)
        pattern = r"[^\n]*".join(map(re.escape, parts))
        assert re.search(pattern, said), heading


def test_the_first_screen_of_the_readme():
    """A sentence, a picture, two commands; and no more than 200 lines in all."""
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 200
    screen = "\n".join(lines[:24])
    assert screen.startswith("# ddpm_jax\n\nDenoising diffusion")
    assert "](docs/digits.png)" in screen
    assert screen.count("```bash") == 2
    assert "<!-- train -->" in screen and "<!-- test -->" in screen


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_are_run_or_say_why_not(page, tool):
    tool("blocks").blocks(page, ROOT)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("```sh\nls\n```\n", "x.md:2: the language must be one of bash, python"),
        ("```\nls\n```\n", "got none"),
        ("<!-- perhaps -->\n```bash\nls\n```\n", "no meaning: <!-- perhaps -->"),
        ("<!-- not run: -->\n```bash\nls\n```\n", "no meaning"),
        ("- so:\n  ```bash\n  ls\n  ```\n", "must be fenced, from the margin on"),
        ("so:\n\n    python train.py\n", "must be fenced"),
    ],
)
def test_a_block_that_would_be_passed_over_is_refused(text, line, tool, tmp_path):
    (tmp_path / "x.md").write_text(text)
    with pytest.raises(ValueError, match=re.escape(line)):
        tool("blocks").blocks(tmp_path / "x.md", tmp_path)


def test_a_block_knows_its_place_and_what_comes_first(tool, tmp_path):
    text = "# A\n\n<!-- first:\nx = 1\ny = 2\n-->\n```python\nz = x\n```\n"
    text += "<!-- not run: no GPU -->\n```bash\nls\n```\n"
    (tmp_path / "x.md").write_text(text)
    first, second = tool("blocks").blocks(tmp_path / "x.md", tmp_path)
    assert (first.place, first.code, first.before) == (
        "x.md:8",
        "z = x\n",
        "x = 1\ny = 2",
    )
    assert not first.not_run and second.not_run and second.before == ""


def test_commands_are_found_wherever_they_stand(tool):
    code = (
        "pip install x && python train.py --config cifar10 \\\n    --train.seed 1\n"
        "srun python -m ddpm_jax.evaluation.likelihood --workdir a  # why\n"
        'ssh host --command="cd x && .venv/bin/python sample.py --workdir b"\n'
        "if [ $code -eq 143 ]; then ddpm-export a b --format npz; fi\n"
    )
    found = [" ".join(words) for words in tool("programs").commands(code)]
    assert found == [
        "python train.py --config cifar10 --train.seed 1",
        "python -m ddpm_jax.evaluation.likelihood --workdir a",
        ".venv/bin/python sample.py --workdir b",
        "ddpm-export a b --format npz",
    ]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("python train.py --config cifar10 --train.batch-sise 2", "--train.batch-size"),
        ("ddpm-train --config cifar", "--config must name a file"),
        ("python sample.py --workdir x --samplers ddim", "--sampler"),
        ("ddpm-evaluate --workdir x --protocol fid", "openai"),
        ("python -m ddpm_jax.interop import", "workdir"),
        ("ddpm-export a b --format zip", "stablehlo"),
        ("python -m ddpm_jax.data check x --size 2", "--size"),
        ("python -m ddpm_jax.figures", "NAME"),
        ("python -m ddpm_jax.nothing", "no program ddpm_jax.nothing"),
        ("ddpm-sample --workdir x --label 3 --guidance 2", ""),
        ("python -m ddpm_jax.evaluation.classifier --workdir x", ""),
        ("ddpm-import a --workdir b --image-size 32", ""),
    ],
)
def test_a_command_that_is_not_run_is_parsed(command, said, tool):
    refused = tool("programs").refusal(command.split())
    assert said in refused and bool(said) == bool(refused)


def made_site(folder, body):
    (folder / "search").mkdir()
    docs = [{"location": "a.html#ddpm_jax.x", "title": "<code>x</code>", "text": ""}]
    index = {"config": {"separator": r"[\s.]+"}, "docs": docs}
    (folder / "search" / "search_index.json").write_text(json.dumps(index))
    (folder / "reference").mkdir()
    page = folder / "reference" / "a.html"
    page.write_text(f'<h1 id="top"></h1><i id="ddpm_jax.x"></i>{body}')
    return page


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="a.html#top">', None),
        ('<a href="https://arxiv.org/abs/1">', None),
        ('<a href="b.html">', "no file for b.html"),
        ('<a href="#bottom">', "no anchor for #bottom"),
        ('<a href="http:/arxiv.org">', "malformed"),
        ('<script src="https://cdn.org/x.js">', "loads https://cdn.org/x.js"),
        ('<img src="../x.png">', "loads ../x.png"),
    ],
)
def test_links_of_the_site_are_followed(body, fault, tool, tmp_path):
    check = tool("check")
    page = made_site(tmp_path, body)
    pages = {page: check.Page(page)}
    found = [*check.broken_links(pages, tmp_path), *check.loads(pages, tmp_path)]
    assert len(found) == (fault is not None)
    assert fault is None or fault in found[0]


def test_a_public_name_must_be_in_the_reference_and_in_the_search(tool, tmp_path):
    check = tool("check")
    page = made_site(tmp_path, '<i id="ddpm_jax.y"></i>')
    pages = {page: check.Page(page)}
    names = {"ddpm_jax.x": "x", "ddpm_jax.y": "y", "ddpm_jax.z": "z"}
    assert list(check.unfound(names, pages, tmp_path)) == [
        "ddpm_jax.y is not found by the search",
        "ddpm_jax.z is on no page of the reference",
    ]
    public = dict(check.public_names())
    assert public["ddpm_jax.model.Model.sample"] == "sample"
    assert public["ddpm_jax.diffusion.betas.linear_betas"] == "linear_betas"
    assert not [name for name in public if "._" in name]


def test_links_of_the_pages_lead_somewhere_on_a_code_host(tool):
    assert list(tool("check").broken_markdown()) == []
