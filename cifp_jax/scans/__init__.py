"""Medical files to arrays and back. Host side: NumPy, and no JAX."""
