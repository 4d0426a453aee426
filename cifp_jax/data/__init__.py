"""Files to batches, on the host: NumPy, h5py and Grain, without jax.numpy."""
