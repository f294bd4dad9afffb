"""Rows without labels from where a model will be used, and how far they lie from the rows with labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

POOLED_ROWS = 4096
"""Rows without labels whose features are pooled at most; more change neither a test nor a covariance."""
LEVEL = 0.01
"""A test with a smaller p value says that the rows differ."""
USABLE, FEWEST = 0.2, 30
"""Share and number of validation rows that importance weights must leave to be used for choosing."""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How unlabeled rows differ from training rows, measured on the pooled features of one backbone."""

    backbone: str
    rows: int
    """Unlabeled rows that were read."""
    accuracy: float
    """Of a classifier that tells unlabeled rows from as many training rows, on rows that it has not seen; .5: it cannot
    (classifier two-sample test, Lopez-Paz and Oquab 2017)."""
    low: float
    """Lower end of the accuracy's 95 % interval."""
    high: float
    auc: float
    """Of the same classifier on the same rows."""
    p_value: float
    """Of an accuracy this high where the rows are alike."""
    mmd: float
    """Squared maximum mean discrepancy (Gretton et al. 2012), unbiased: about 0 where the rows are alike."""
    mmd_p_value: float
    """By permutations."""
    effective: float
    """Validation rows, in number, that the classifier's importance weights leave (Kish 1965)."""
    validation: int
    """Validation rows that were weighted."""
    alike: float = 0.0
    """Estimated share of the validation rows that are like the unlabeled ones rather than like the training rows."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Estimated share of each class among the unlabeled rows, if only the shares differ (Saerens et al. 2002); empty
    where rows have no one class."""

    @property
    def differs(self) -> bool:
        """Whether either test says that the rows are not alike."""
        return min(self.p_value, self.mmd_p_value) < LEVEL

    @property
    def covered(self) -> bool:
        """Whether the validation rows are like the unlabeled ones, so that they may choose as they are."""
        return self.alike >= 0.5

    @property
    def weighable(self) -> bool:
        """Whether importance weights leave enough validation rows to choose by."""
        return self.effective >= max(FEWEST, USABLE * self.validation)

    @property
    def text(self) -> str:
        """What the tests say, in a few words."""
        told = (
            f"a classifier on the features of {self.backbone} tells them from training rows with accuracy "
            f"{self.accuracy:.3f} (95 %: {self.low:.3f} to {self.high:.3f}; AUC {self.auc:.2f}, p {self.p_value:.2g}), "
            f"MMD p {self.mmd_p_value:.2g}"
        )
        return f"the unlabeled rows {'differ' if self.differs else 'look the same'}: {told}"


@dataclass(frozen=True, kw_only=True)
class Unlabeled:
    """Unlabeled rows of a run."""

    name: str
    """How their source calls itself."""
    rows: int
    """Those that can be read."""
    fingerprint: str
    """Hash of all of them, in their order."""
    gap: Gap | None = None
    """Known after the survey."""


def rows_hash(fingerprint: str, unlabeled: Unlabeled | None) -> str:
    """Return a hash of all rows of a run: that of the labelled ones, joined with that of those without labels."""
    return fingerprint if unlabeled is None else f"{fingerprint}+{unlabeled.fingerprint}"
