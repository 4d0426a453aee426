"""Speed and memory beside PyTorch: `python -m benchmarks.step`, `.inference`, `.loader`."""
