# The commands of this package, for CPUs or for NVIDIA GPUs:
#   docker build -t cifp-jax .
#   docker build -t cifp-jax:cuda --build-arg EXTRA=cuda .
#   docker run --rm -v "$PWD:/work" cifp-jax cifp-predict --weights=acdc-7 SCANS MASKS
# With GPUs: docker run --gpus=all ... cifp-jax:cuda ...
FROM python:3.11-slim

# CUDA's libraries come with the wheels of JAX; the host needs the driver alone.
ARG EXTRA=""
WORKDIR /opt/cifp_jax
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY cifp_jax cifp_jax
COPY configs configs
COPY docs/models docs/models
COPY experiments/weights experiments/weights
RUN pip install --no-cache-dir --constraint constraints.txt ".${EXTRA:+[$EXTRA]}"

# Masks belong to whoever starts the container: docker run --user "$(id -u):$(id -g)".
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib
USER nobody
WORKDIR /work
CMD ["cifp-predict", "--help"]
