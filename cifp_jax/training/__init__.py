"""Batches to parameters: the state, the step, the loop, and what a run writes and scores."""
