#!/bin/bash
# Creates a TPU slice, stages the data on each host, and trains until the run is at its end, also
# after the slice was taken away: bash docs/howto/launch/tpu_pod.sh
set -euo pipefail

: "${PROJECT:?the Google Cloud project}" "${ZONE:?such as us-west4-a}"
: "${BUCKET:?gs://... that holds LA/, cifp_jax.whl, and gets the run}"
name="${NAME:-cifp}"
slice="${SLICE:-v5litepod-8}"
version="${VERSION:-v2-alpha-tpuv5-lite}"
tpu=(gcloud compute tpus tpu-vm --project="$PROJECT" --zone="$ZONE")

everywhere() {
  "${tpu[@]}" ssh "$name" --worker=all --command="$1"
}

create() {
  "${tpu[@]}" create "$name" --accelerator-type="$slice" --version="$version" --preemptible &&
    everywhere "set -e
      python3 -m pip install --quiet uv
      python3 -m uv venv --python=3.12 env
      gcloud storage cp '$BUCKET/*.whl' .
      python3 -m uv pip install --python=env \"\$(ls ./*.whl)[tpu]\"
      mkdir -p data && gcloud storage cp --recursive '$BUCKET/LA' data/
      sudo apt-get install --yes gcsfuse
      # A checkpoint is a folder that gets its name when it is whole.
      mkdir -p runs && gcsfuse --implicit-dirs --rename-dir-limit=10000 '${BUCKET#gs://}' runs"
}

status=1
until [ "$status" -eq 0 ]; do
  status=0
  everywhere "env/bin/python -m cifp_jax.main --config=la --config.data.root=data/LA \
    --workdir=runs/la --distributed \
    --config.data.batch_labeled=8 --config.data.batch_unlabeled=8" || status=$?
  if [ "$status" -ne 0 ]; then
    state=$("${tpu[@]}" describe "$name" --format='value(state)' || true)
    if [ "$state" != READY ]; then
      "${tpu[@]}" delete "$name" --quiet || true
      create || true # no slice was free: asked for again
    elif [ "$status" -ne 75 ] && [ "$status" -ne 255 ]; then
      exit "$status" # neither stopped and saved (75) nor cut off (255): an error of the run
    fi
    sleep 30
  fi
done
