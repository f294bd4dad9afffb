"""Closed-form estimators of transferability: arithmetic on frozen features, in ``float64``, no training."""

from autotransfer.search.transferability.bootstrap import chance_of_best
from autotransfer.search.transferability.calibration import Link, link_of
from autotransfer.search.transferability.depths import MultiDepth, concatenated, multi_depth
from autotransfer.search.transferability.domains import effective, importance, mmd, shares, two_sample
from autotransfer.search.transferability.hscore import hscore
from autotransfer.search.transferability.judge import Judgement, judge
from autotransfer.search.transferability.knn import knn
from autotransfer.search.transferability.logme import logme
from autotransfer.search.transferability.ridge import Ridge, leave_one_out, ridge
from autotransfer.search.transferability.spectrum import Spectrum, decompose

__all__ = [
    "Judgement",
    "Link",
    "MultiDepth",
    "Ridge",
    "Spectrum",
    "chance_of_best",
    "concatenated",
    "decompose",
    "effective",
    "hscore",
    "importance",
    "judge",
    "knn",
    "leave_one_out",
    "link_of",
    "logme",
    "mmd",
    "multi_depth",
    "ridge",
    "shares",
    "two_sample",
]
