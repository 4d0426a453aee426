"""Files for Docker, public CI, pre-commit and the site: what they name is there."""

import pathlib
import re
import runpy
import shlex
import tomllib
import types

import yaml

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_image_copies_what_the_package_is_made_of():
    lines = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
    known = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "USER", "CMD"}
    assert {kind for kind, _ in steps} <= known
    copied = [path for kind, rest in steps if kind == "COPY" for path in rest.split()[:-1]]
    let_in = (ROOT / ".dockerignore").read_text().splitlines()
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in let_in
    packed = PROJECT["tool"]["setuptools"]["package-dir"].values()
    assert {*packed, "cifp_jax", "constraints.txt", PROJECT["project"]["readme"]} <= set(copied)
    assert set(PROJECT["project"]["license-files"]) <= set(copied)
    (install,) = (rest for kind, rest in steps if kind == "RUN")
    assert "--constraint constraints.txt" in install
    (command,) = (rest for kind, rest in steps if kind == "CMD")
    assert yaml.safe_load(command)[0] in PROJECT["project"]["scripts"]
    assert "cuda" in PROJECT["project"]["optional-dependencies"]


def test_public_ci_calls_what_there_is():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    targets = re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 120
        for step in job["steps"]:
            if used := step.get("uses"):
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", used)
                continue
            program, *rest = shlex.split(step["run"])
            if program == "make":
                assert set(rest) <= set(targets), step
            for part in (program, *rest):
                if part.startswith((".ci/", "tests/")):
                    assert (ROOT / part).exists(), part


def test_hooks_run_the_versions_of_ci():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    ruff = next(one for one in repositories if one["repo"].endswith("ruff-pre-commit"))
    assert f"ruff=={ruff['rev'].removeprefix('v')}" in (ROOT / "constraints.txt").read_text()


def test_the_site_has_every_page_once():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    flat: list[str] = []
    for entry in site["nav"]:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            flat += value if isinstance(value, list) else [value]
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert sorted(flat) == sorted(pages)


def test_functions_of_the_site_are_modules():
    text = (ROOT / "docs/reference/api.md").read_text()
    names = re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)
    assert len(names) > 10
    for name in names:
        assert (ROOT / f"{name.replace('.', '/')}.py").is_file(), name


def test_links_out_of_the_site_name_their_file():
    hook = runpy.run_path(str(ROOT / "docs/site_links.py"))["on_page_markdown"]
    page = types.SimpleNamespace(file=types.SimpleNamespace(src_uri="howto/report.md"))
    kept = "[a](resume.md#top) [b](https://a.b/c) ![c](../report.png) [d](#here)"
    assert hook(kept, page) == kept
    out = "[results](../../experiments/results/README.md) and [a file](launch/gke.yaml)"
    named = "results (`experiments/results/README.md`) and a file (`docs/howto/launch/gke.yaml`)"
    assert hook(out, page) == named
