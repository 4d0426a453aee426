"""The works on PyTorch's side, in its best memory format; compiled and autocast on accelerators."""

# pyright: reportMissingImports=false, reportArgumentType=false, reportCallIssue=false
# pyright: reportOptionalMemberAccess=false
import contextlib
import functools
import resource
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.evaluation import evaluation_run
from benchmarks.sides import Work
from cifp_jax.inference.sliding_window import window_starts

CLASSES = {"vnet": 2, "unet": 4}


def import_torch() -> Any:
    """PyTorch, or an ImportError that says how to get it."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "PyTorch is not installed; pip install -e '.[benchmark]' brings it"
        ) from error
    return torch


def _device(torch: Any) -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _peak_memory(torch: Any) -> float:
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def step(*, network: str, method: str, shape: Sequence[int], batch: int, precision: str) -> Work:
    """One training step with SGD; the EMA teacher moves where the method has one."""
    torch = import_torch()
    from benchmarks import torch_cifp
    from benchmarks.torch_networks import NETWORKS

    device, rank, classes = _device(torch), len(shape), CLASSES[network]
    layout = torch.channels_last_3d if rank == 3 else torch.channels_last

    def image() -> Any:
        return torch.randn(batch, 1, *shape, device=device).to(memory_format=layout)

    student = NETWORKS[network](rank, classes).to(device, memory_format=layout)
    teacher = NETWORKS[network](rank, classes).to(device, memory_format=layout).eval()
    teacher.load_state_dict(student.state_dict())
    optimizer = torch.optim.SGD(student.parameters(), 0.01, 0.9, weight_decay=1e-4)
    label = torch.randint(0, classes, (batch, *shape), device=device)
    label = torch.nn.functional.one_hot(label, classes).movedim(-1, 1).float()
    x_l, x_u = image(), image()

    def supervised() -> Any:
        return torch_cifp.segmentation_loss(student(x_l), label)

    def cifp() -> Any:
        return torch_cifp.loss(student, teacher, x_l, label, x_u)

    objective = {"supervised": supervised, "cifp": cifp}[method]
    cast: Any = contextlib.nullcontext
    if device == "cuda":
        for model in (student, teacher):
            model.encode, model.decode = map(torch.compile, (model.encode, model.decode))
    if precision == "bfloat16":
        cast = lambda: torch.autocast(device, torch.bfloat16)  # noqa: E731
    tensors = [list(m.state_dict().values()) for m in (student, teacher)]
    floating = [i for i, t in enumerate(tensors[0]) if t.is_floating_point()]
    new, old = ([tensors[m][i] for i in floating] for m in (0, 1))

    def run() -> None:
        with cast():
            value = objective()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if method != "supervised":
            with torch.no_grad():
                torch._foreach_lerp_(old, new, 0.01)
        if device == "cuda":
            torch.cuda.synchronize()

    return Work(run, lambda: {"peak_memory": _peak_memory(torch)})


def make_predictor(
    network: str, patch: Sequence[int], stride: Sequence[int], batch: int
) -> Callable[[np.ndarray], Any]:
    """Mean softmax of sliding windows (3D), or slice by slice after resizing (2D), in batches."""
    torch = import_torch()
    from benchmarks.torch_networks import NETWORKS

    device, rank, classes = _device(torch), len(patch), CLASSES[network]
    layout = torch.channels_last_3d if rank == 3 else torch.channels_last
    model = NETWORKS[network](rank, classes).to(device, memory_format=layout).eval()

    def forward(windows: Any) -> Any:
        return model(windows.contiguous(memory_format=layout)).softmax(1)

    def slices(volume: Any) -> Any:
        out = []
        for first in range(0, len(volume), batch):
            images = volume[first : first + batch, None]
            small = torch.nn.functional.interpolate(images, tuple(patch), mode="nearest")
            probs = forward(small)
            out.append(torch.nn.functional.interpolate(probs, volume.shape[1:], mode="nearest"))
        return torch.cat(out).cpu()

    def windows(volume: Any) -> Any:
        shape = tuple(volume.shape)
        axes = [window_starts(*axis) for axis in zip(shape, patch, stride, strict=True)]
        corners = [(i, j, k) for i in axes[0] for j in axes[1] for k in axes[2]]
        total = torch.zeros((classes, *shape), device=device)
        count = torch.zeros(shape, device=device)
        for first in range(0, len(corners), batch):
            where = [
                tuple(slice(a, a + p) for a, p in zip(corner, patch, strict=True))
                for corner in corners[first : first + batch]
            ]
            probs = forward(torch.stack([volume[w] for w in where])[:, None])
            for w, p in zip(where, probs, strict=True):
                total[(slice(None), *w)] += p
                count[w] += 1
        return (total / count).cpu()

    def run(volume: np.ndarray) -> Any:
        with torch.no_grad():
            return (windows if rank == 3 else slices)(torch.from_numpy(volume).to(device))

    return run


def predict(
    *, network: str, shape: Sequence[int], patch: Sequence[int], stride: Sequence[int], batch: int
) -> Work:
    """One random scan or volume."""
    torch = import_torch()
    volume = np.random.default_rng(0).normal(size=tuple(shape)).astype(np.float32)
    predictor = make_predictor(network, patch, stride, batch)
    return Work(functools.partial(predictor, volume), lambda: {"peak_memory": _peak_memory(torch)})


def evaluate(
    *, files: Sequence[str], patch: Sequence[int], stride: Sequence[int], batch: int
) -> Work:
    """Scans of LA: windows of a V-Net, and medpy's scores of a mask beside its label."""
    torch = import_torch()
    from medpy.metric import binary

    predictor = make_predictor("vnet", patch, stride, batch)

    def score(mask: np.ndarray, label: np.ndarray) -> object:
        return [f(mask, label) for f in (binary.dc, binary.jc, binary.hd95, binary.asd)]

    return Work(
        evaluation_run(predictor, score, files), lambda: {"peak_memory": _peak_memory(torch)}
    )
