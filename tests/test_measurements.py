"""Measurements of a mask, worked out by hand."""

import numpy as np

from cifp_jax.evaluation.measurements import measure


def test_measurements_by_hand():
    """A corner of three voxels and a far one: 4 x 2 mm^3, three of four in one piece."""
    label = np.zeros((4, 4, 4), np.uint8)
    label[0, 0, :3] = label[3, 3, 3] = 1
    image, entropy = np.zeros(label.shape, np.float32), np.zeros(label.shape, np.float32)
    image[0, 0, :3], image[3, 3, 3] = (10, 20, 30), 40
    entropy[label == 1] = 0.5
    names = {0: "background", 5: "liver", 9: "tumour"}
    liver, tumour = measure("a", image, label, entropy, names=names, voxel_ml=0.002)
    assert liver == ("a", 5, "liver", 0.008, 25.0, 0.75, 0.5)
    assert tumour[:4] == ("a", 9, "tumour", 0.0)
    assert np.isnan(tumour[4:]).all()
