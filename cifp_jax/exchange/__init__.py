"""Networks for other programs: PyTorch's names, ONNX, StableHLO."""
