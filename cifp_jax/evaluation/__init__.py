"""Probabilities and labels to figures: metrics, calibration, and which scan to label next."""
