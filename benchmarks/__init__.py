"""Speed and memory beside PyTorch, and what compilers say: `python -m benchmarks.step`, for one."""
