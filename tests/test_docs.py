"""What README and docs/ say exists: links, commands, options, settings, configurations."""

import importlib
import math
import pathlib
import re
import runpy

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from cifp_jax.config import default_config
from cifp_jax.methods.context import Context
from cifp_jax.models.network import Network

ROOT = pathlib.Path(__file__).parents[1]
REFERENCE = runpy.run_path(str(ROOT / "docs/make_reference.py"))
RESULTS = ("acdc_cpu/", "ablation_cpu_first_network/", "la_cpu/")
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
    *(ROOT / "benchmarks/RESULTS.md", ROOT / "benchmarks/TRIED.md"),
    ROOT / "experiments/weights/README.md",
    *(ROOT / f"experiments/results/{name}README.md" for name in ("", *RESULTS)),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# Records of earlier code, whose commands and settings are those of their day.
RECORDS = [
    *(
        ROOT / f"experiments/results/{name}.md"
        for name in ("core_search", "one_h200", "reliability")
    ),
    ROOT / "experiments/results/first_form/README.md",
]
# Options of pytest, pip, git, docker and Slurm, and those of any command.
FOREIGN = {"data", "help", "constraint", "editable", "no-deps", "array", "time", "gres", "wrap"}
FOREIGN |= {"build-arg", "rm", "user", "gpus", "xla_gpu_autotune_level"}


def text(page):
    """The page with commands of several lines put into one."""
    return page.read_text(encoding="utf-8").replace("\\\n", " ")


def anchors(page):
    """What `#...` may name: the headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES + RECORDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_index():
    index = ROOT / "docs/README.md"
    linked = re.findall(r"\]\(([^)\s#]+)\)", index.read_text(encoding="utf-8"))
    named = {(index.parent / link).resolve() for link in linked}
    pages = set((ROOT / "docs").rglob("*.md")) - {index}
    assert not pages - named


def test_commands_and_their_options_exist():
    modules = {
        name: {flag.lstrip("-") for flag, *_ in REFERENCE["options"](path)}
        for name, path in REFERENCE["commands"]().items()
    }
    every = set().union(*modules.values()) | FOREIGN
    seen = set()
    for page in PAGES:
        for module, rest in re.findall(r"python -m ([\w.]+)([^\n`]*)", text(page)):
            if module.split(".")[0] in ("cifp_jax", "experiments", "benchmarks"):
                assert module in modules, f"{page.name}: python -m {module}"
                for flag in re.findall(r"(?<!\S)\[?--([a-z][\w-]*)(?![\w.-])", rest):
                    known = modules[module] | {"help"}
                    assert flag in known, f"{page.name}: {module} --{flag}"
                seen.add(module)
        for flag in re.findall(r"(?<![\w-])--([a-z][\w-]*)", text(page)):
            assert flag in every, f"{page.name}: --{flag}"
    assert len(seen) > 5


def test_settings_exist():
    config = default_config()
    for page in PAGES:
        for name in re.findall(r"(?<![\w/])config\.([a-z_]+(?:\.[a-z_]+)*)", text(page)):
            part = config
            for key in () if name in ("py", "json", "md") else name.split("."):
                assert key in part, f"{page.name}: config.{name}"
                part = part[key]


def test_configurations_and_targets_exist():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in PAGES:
        for name, variant in re.findall(r"configs/(\w+)\.py(?::(\w+))?", text(page)):
            get_config = importlib.import_module(f"configs.{name}").get_config
            get_config(*filter(None, [variant]))
        for target in re.findall(r"(?:^|`)make ([\w-]+)", text(page), re.MULTILINE):
            assert target in targets, f"{page.name}: make {target}"


def test_the_reference_is_up_to_date():
    for page, expected in REFERENCE["pages"]().items():
        assert page.read_text(encoding="utf-8") == expected, (
            f"{page.name} is older than the code: run `python docs/make_reference.py`."
        )


def test_the_reference_reads_settings_and_options():
    """By hand: two settings, an option of argparse and one of absl."""
    page = REFERENCE["commands_page"]()
    assert "| `--float16` |  | half the size, for release |" in page
    assert "| `--mode` | train | Train and evaluate, or evaluate a finished run. |" in page
    page = REFERENCE["config_page"]()
    row = "| `config.methods.cifp.perturbation.gate` | `0.1` | from 0 to 1; log K | The uncertainty"
    assert row in page
    assert "| `config.ema.decay` | `0.99` | at least 0 and below 1 | Of the average; 0" in page
    # Every key of the configuration has a line, and each line says something.
    for key in flatten_dict(default_config().to_dict(), sep="."):
        row = rf"^\| `config\.{key}` \| `.*` \| .* \| [A-Z].*\.\)? \|$"
        assert re.search(row, page, re.MULTILINE), key


def test_a_newcomer_reads_the_readme_to_its_end():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_the_snippet_of_the_readme_runs():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    space: dict = {}
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(snippet, space)
    assert callable(space["train_step"])


def test_the_method_of_the_how_to_by_hand():
    """Logits of 0 in two classes, labels of the first: CE log 2, Dice (0.2 + 1) / 2, entropy 1."""
    page = (ROOT / "docs/howto/new_method.md").read_text(encoding="utf-8")
    space: dict = {"__name__": "entropy"}
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], space)

    def encode(x, keys, stats):
        return (x,), stats

    def decode(features, keys, stats):
        return jnp.zeros((*features[0].shape[:-1], 2)), stats

    def forward(x, keys, stats):
        return decode((x,), keys, stats)

    network = Network(encode, decode, forward, {})
    image, index = jnp.ones((2, 4, 4, 1)), jnp.arange(2)
    batch = {
        "labeled": {"image": image, "label": jnp.zeros((2, 4, 4), int), "index": index},
        "unlabeled": {"image": image, "index": index},
    }
    context = Context(jax.random.key(0), jnp.zeros((), int))
    settings = space["Settings"](lambda_max=0.5)
    value, (_, metrics) = space["loss"](network, network, batch, context, settings)
    assert float(metrics["entropy"][0]) == pytest.approx(1)
    assert float(value) == pytest.approx((math.log(2) + 0.6) / 2 + 0.5, abs=1e-4)
