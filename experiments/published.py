"""Figures of other works, quoted from their papers, repositories or logs; not measured here.

By data and number of labelled patients: Dice %, or Dice %, Jaccard %, 95HD and ASD in voxels. Most
are of the checkpoint that was best on the test set.
"""

Quoted = tuple[float, ...]

PUBLISHED: dict[tuple[str, int], dict[str, Quoted]] = {
    ("la", 4): {
        "supervised only": (52.55,),
        "UA-MT": (82.26,),
        "MC-Net": (83.59,),
        "SS-Net": (86.33,),
        "BCP": (88.02,),
        "AD-MT": (89.63, 81.28, 6.56, 1.75),
        "fully supervised": (91.47,),
    },
    ("la", 8): {
        "supervised only": (82.74,),
        "UA-MT": (84.25,),
        "MC-Net": (87.71,),
        "SS-Net": (88.55,),
        "BCP": (89.55,),
        "UniMatch": (89.09,),
        "AD-MT": (90.58, 82.86, 6.46, 1.58),
        "CrossMatch": (91.33, 84.11, 5.29, 1.53),
        "TraCoCo": (89.29,),
        "CompNet": (90.50,),
        "fully supervised": (91.47,),
    },
    ("la", 16): {
        "supervised only": (86.96,),
        "UA-MT": (88.88,),
        "MC-Net": (90.34,),
        "SS-Net": (90.21,),
        "BCP": (90.18,),
        "UniMatch": (90.77,),
        "CrossMatch": (91.61, 84.57, 5.36, 1.57),
        "TraCoCo": (90.94,),
        "CompNet": (91.41,),
        "fully supervised": (91.47,),
    },
    ("acdc", 3): {
        "supervised only": (47.83,),
        "UA-MT": (46.04,),
        "MC-Net": (62.85,),
        "SS-Net": (65.82,),
        "BCP": (87.59, 78.67, 1.90, 0.67),
        "UniMatch": (87.61,),
        "AD-MT": (88.85,),
        "CrossMatch (on validation)": (88.27,),
        "TraCoCo": (89.46, 81.51, 2.43, 0.71),
        "CompNet": (89.68,),
        "OPMatch": (89.72, 83.32, 1.41, 0.38),
        "fully supervised": (91.44,),
    },
    ("acdc", 7): {
        "supervised only": (79.41,),
        "UA-MT": (81.65,),
        "MC-Net": (86.44,),
        "SS-Net": (86.78,),
        "BCP": (88.84, 80.62, 3.98, 1.17),
        "UniMatch": (89.92,),
        "AD-MT": (89.46,),
        "CrossMatch (on validation)": (89.08,),
        "TraCoCo": (90.44, 83.01, 1.41, 0.42),
        "CompNet": (90.19,),
        "OPMatch": (90.50, 83.42, 1.24, 0.31),
        "fully supervised": (91.44,),
    },
}
