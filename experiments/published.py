"""Figures of other works, quoted from public repositories or the literature; not measured here.

By data and number of labelled patients. Each row names where it was read and which checkpoint
stands behind it, as far as that was found in the code: rows under different rules do not compare.
"""

from typing import NamedTuple


class Quoted(NamedTuple):
    """One published row.

    Attributes:
      figures: Dice %, or Dice %, Jaccard %, 95HD and ASD in voxels.
      source: where the figures, and the rule, were read.
      checkpoint: the rule by which the scored checkpoint was chosen, and what else was done.
    """

    figures: tuple[float, ...]
    source: str
    checkpoint: str


CODE = "a public repository, whose code was read"
LOGS = "logs in the method's public repository"
REPOSITORY = "a public repository's README or log"
SCRIPT = "as another repository's reproduction script quotes it"
LITERATURE = "the literature, unverified"

LAST = "the last one, no largest component"
BEST_ON_TEST = "the best on the test set, largest component kept"
VALIDATION = "chosen on validation and test merged; scored on the validation patients"
MERGED = "chosen on validation and test merged"
FINAL = "the last one"
FINAL_MEDIAN = "the last one, median of five seeds"
UNKNOWN = "not known"

PUBLISHED: dict[tuple[str, int], dict[str, Quoted]] = {
    ("la", 4): {
        "supervised only": Quoted((52.55,), LITERATURE, UNKNOWN),
        "UA-MT": Quoted((82.26,), REPOSITORY, UNKNOWN),
        "MC-Net": Quoted((83.59,), REPOSITORY, UNKNOWN),
        "SS-Net": Quoted((86.33,), REPOSITORY, UNKNOWN),
        "BCP": Quoted((88.02,), CODE, BEST_ON_TEST),
        "AD-MT": Quoted((89.63, 81.28, 6.56, 1.75), CODE, BEST_ON_TEST),
        "AD-MT, last checkpoint": Quoted((89.29,), LOGS, FINAL),
        "DualFete": Quoted((90.35,), CODE, BEST_ON_TEST),
        "UEFL": Quoted((90.50,), REPOSITORY, UNKNOWN),
        "MEDL, mean of two networks": Quoted((90.49,), REPOSITORY, UNKNOWN),
        "fully supervised": Quoted((91.47,), REPOSITORY, UNKNOWN),
    },
    ("la", 8): {
        "supervised only": Quoted((82.74,), LITERATURE, UNKNOWN),
        "UA-MT": Quoted((84.25,), REPOSITORY, UNKNOWN),
        "MC-Net": Quoted((87.71,), REPOSITORY, UNKNOWN),
        "SS-Net": Quoted((88.55,), REPOSITORY, UNKNOWN),
        "BCP": Quoted((89.55,), CODE, BEST_ON_TEST),
        "UniMatch": Quoted((89.09,), REPOSITORY, UNKNOWN),
        "AD-MT": Quoted((90.58, 82.86, 6.46, 1.58), CODE, BEST_ON_TEST),
        "AD-MT, last checkpoint": Quoted((90.11,), LOGS, FINAL),
        "CrossMatch": Quoted((91.33, 84.11, 5.29, 1.53), CODE, LAST),
        "TraCoCo": Quoted((89.29,), REPOSITORY, UNKNOWN),
        "CompNet": Quoted((90.50,), REPOSITORY, UNKNOWN),
        "DualFete": Quoted((91.28,), CODE, BEST_ON_TEST),
        "BCSI": Quoted((91.07,), CODE, BEST_ON_TEST),
        "TCSeg": Quoted((90.28,), REPOSITORY, FINAL_MEDIAN),
        "MEDL, mean of two networks": Quoted((91.55,), REPOSITORY, UNKNOWN),
        "nnFilterMatch": Quoted((91.50,), REPOSITORY, UNKNOWN),
        "fully supervised": Quoted((91.47,), REPOSITORY, UNKNOWN),
    },
    ("la", 16): {
        "supervised only": Quoted((86.96,), LITERATURE, UNKNOWN),
        "UA-MT": Quoted((88.88,), REPOSITORY, UNKNOWN),
        "MC-Net": Quoted((90.34,), REPOSITORY, UNKNOWN),
        "SS-Net": Quoted((90.21,), REPOSITORY, UNKNOWN),
        "BCP": Quoted((90.18,), CODE, BEST_ON_TEST),
        "UniMatch": Quoted((90.77,), REPOSITORY, UNKNOWN),
        "CrossMatch": Quoted((91.61, 84.57, 5.36, 1.57), CODE, LAST),
        "TraCoCo": Quoted((90.94,), REPOSITORY, UNKNOWN),
        "CompNet": Quoted((91.41,), REPOSITORY, UNKNOWN),
        "DualFete": Quoted((91.89,), CODE, BEST_ON_TEST),
        "BCSI": Quoted((91.84,), CODE, BEST_ON_TEST),
        "TCSeg": Quoted((90.83,), REPOSITORY, FINAL_MEDIAN),
        "MEDL, mean of two networks": Quoted((91.95,), REPOSITORY, UNKNOWN),
        "fully supervised": Quoted((91.47,), REPOSITORY, UNKNOWN),
    },
    ("acdc", 3): {
        "supervised only": Quoted((47.83,), LITERATURE, UNKNOWN),
        "UA-MT": Quoted((46.04,), REPOSITORY, UNKNOWN),
        "MC-Net": Quoted((62.85,), REPOSITORY, UNKNOWN),
        "SS-Net": Quoted((65.82,), REPOSITORY, UNKNOWN),
        "BCP": Quoted((87.59, 78.67, 1.90, 0.67), REPOSITORY, UNKNOWN),
        "UniMatch": Quoted((87.61,), CODE, MERGED),
        "AD-MT": Quoted((88.85,), REPOSITORY, UNKNOWN),
        "CrossMatch": Quoted((88.27,), CODE, VALIDATION),
        "TraCoCo": Quoted((89.46, 81.51, 2.43, 0.71), REPOSITORY, UNKNOWN),
        "CompNet": Quoted((89.68,), REPOSITORY, UNKNOWN),
        "OPMatch": Quoted((89.72, 83.32, 1.41, 0.38), CODE, VALIDATION),
        "UEFL": Quoted((89.29,), REPOSITORY, UNKNOWN),
        "MEDL, mean of two networks": Quoted((89.60,), REPOSITORY, UNKNOWN),
        "nnFilterMatch": Quoted((89.56,), REPOSITORY, UNKNOWN),
        "fully supervised": Quoted((91.44,), REPOSITORY, UNKNOWN),
    },
    ("acdc", 7): {
        "supervised only": Quoted((79.41,), LITERATURE, UNKNOWN),
        "UA-MT": Quoted((81.65,), REPOSITORY, UNKNOWN),
        "MC-Net": Quoted((86.44,), REPOSITORY, UNKNOWN),
        "SS-Net": Quoted((86.78,), REPOSITORY, UNKNOWN),
        "BCP": Quoted((88.84, 80.62, 3.98, 1.17), REPOSITORY, UNKNOWN),
        "UniMatch": Quoted((89.92,), CODE, MERGED),
        "AD-MT": Quoted((89.46,), REPOSITORY, UNKNOWN),
        "CrossMatch": Quoted((89.08,), CODE, VALIDATION),
        "TraCoCo": Quoted((90.44, 83.01, 1.41, 0.42), REPOSITORY, UNKNOWN),
        "CompNet": Quoted((90.19,), REPOSITORY, UNKNOWN),
        "OPMatch": Quoted((90.50, 83.42, 1.24, 0.31), CODE, VALIDATION),
        "MEDL, mean of two networks": Quoted((90.40,), REPOSITORY, UNKNOWN),
        "nnFilterMatch": Quoted((90.06,), REPOSITORY, UNKNOWN),
        "ALHVR": Quoted((90.56,), SCRIPT, UNKNOWN),
        "fully supervised": Quoted((91.44,), REPOSITORY, UNKNOWN),
    },
}
