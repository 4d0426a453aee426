"""Parameters and scans to probabilities, masks and vectors."""
