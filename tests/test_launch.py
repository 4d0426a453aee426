"""The files of docs/howto/launch: a shell and a parser take them, and the command their flags."""

import os
import pathlib
import re
import subprocess

import pytest
import yaml

from cifp_jax.commands.overrides import check_overrides

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "howto" / "launch"
FILES = sorted(FOLDER.iterdir())


def test_there_is_one_for_slurm_for_a_pod_and_for_kubernetes():
    assert [file.name for file in FILES] == ["gke.yaml", "slurm.sh", "tpu_pod.sh"]


@pytest.mark.parametrize("file", FILES[1:], ids=lambda file: file.name)
def test_a_shell_reads_it(file):
    done = subprocess.run(
        ["bash", "-n", str(file)], capture_output=True, text=True, check=False, timeout=10
    )
    assert (done.returncode, done.stderr) == (0, "")


# No slice is free at first; then one is there, and the run ends with each of `CODES` in turn.
GCLOUD = """#!/bin/bash
echo "$*" | head -1 >> log
case "$*" in
  *describe*) if [ -e there ]; then echo READY; fi ;;
  *" create "*) if [ -e asked ]; then touch there; else touch asked; exit 1; fi ;;
  *cifp_jax.main*)
    [ -e there ] || exit 1
    echo run >> runs
    set -- $CODES
    shift $(($(wc -l < runs) - 1))
    exit "$1" ;;
esac
"""


@pytest.mark.parametrize(("codes", "status"), [("75 255 0", 0), ("75 1", 1)])
def test_a_pod_is_asked_for_until_the_run_ends_or_fails(codes, status, tmp_path):
    (tmp_path / "gcloud").write_text(GCLOUD)
    (tmp_path / "gcloud").chmod(0o755)
    script = (FOLDER / "tpu_pod.sh").read_text().replace("sleep 30", "true")
    names = {"PROJECT": "p", "ZONE": "z", "BUCKET": "gs://b", "CODES": codes}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=os.environ | names | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=False,
        timeout=30,
    )
    assert done.returncode == status
    assert len((tmp_path / "runs").read_text().split()) == len(codes.split())
    assert (tmp_path / "log").read_text().count(" create ") == 2


def test_kubernetes_gets_a_service_and_a_job_of_equal_names():
    service, job = yaml.safe_load_all((FOLDER / "gke.yaml").read_text())
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"] == job["metadata"]["name"]
    assert job["spec"]["completions"] == job["spec"]["parallelism"] == 4
    mounted = {v["name"] for c in pod["containers"] for v in c["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_command_knows_every_flag(file):
    text = file.read_text()
    flags = re.findall(r"--(?:config|workdir|distributed)\S*", text.partition("cifp_jax.main")[2])
    assert any(flag.startswith("--config=") for flag in flags)
    assert "--distributed" in {flag.rstrip('";\\') for flag in flags}
    check_overrides(flags)
    sizes = {flag.split("=")[1].rstrip('";\\') for flag in flags if "batch" in flag}
    assert len(sizes) == 1  # both streams alike, as the devices divide each
