"""The words that flow through autotransfer: frozen, JSON both ways, free of torch.

``Dataset -> Profile -> SurveyRecord -> Plan[Candidate] -> Recipe -> TrialRecord``
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from autotransfer.codec import Scalar, digest
from autotransfer.errors import ConfigError, PluginContractError
from autotransfer.gap import Gap
from autotransfer.profiles import Profile
from autotransfer.targets import Sharing

AUGMENTATIONS: Mapping[str, str] = {
    "none": "rows as they are",
    "light": "rows augmented anew in each epoch",
    "strong": "rows augmented anew in each epoch, more strongly",
    "mixup": "rows augmented anew in each epoch and mixed two by two",
    "cutmix": "rows augmented anew in each epoch, a patch of each from another one",
    "views": "a few fixed views of each row",
}
"""What may be done to training rows, in words."""
STORED = ("none", "views")
"""Those of which activations may be stored."""
BALANCES: Mapping[str, str] = {
    "none": "",
    "logits": "logit-adjusted loss",
    "weights": "rows weighted by class",
    "sampling": "classes drawn evenly",
}
"""What may be done for classes of very different size to count alike, in words."""


@dataclass(frozen=True)
class Verdict:
    """Whether something may be used, and why not."""

    ok: bool
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training. ``freeze`` or ``stages`` says which stages are trained, ``parameters`` what of them."""

    epochs: float
    """Passes over the training rows."""
    lr: float = 1e-3
    """Learning rate of the head."""
    lr_ratio: float = 1.0
    """Backbone lr / head lr, in (0, 1]."""
    layer_decay: float = 1.0
    """Each stage's lr is this times that of the stage after it."""
    freeze: int | None = None
    """The first ``freeze`` stages are frozen; None with no ``stages``: nothing is frozen."""
    stages: tuple[int, ...] | None = None
    """Only these stages are trained (0 is nearest the input)."""
    parameters: str | None = None
    """Regular expression: only parameters whose name it finds are trained; ``norms_and_biases`` is known."""
    stage_lrs: Mapping[str, float] = field(default_factory=dict)
    """Learning rate by stage number, in place of ``lr * lr_ratio``."""
    sampler: str = "shuffle"
    """``shuffle`` or ``balanced`` (classes drawn evenly)."""
    augment: str = "none"
    """One of :data:`AUGMENTATIONS`."""
    augment_from: float = 0.0
    """Epochs of this phase before augmentation begins."""
    averaging: float = 0.0
    """Decay of an exponential moving average of the weights, evaluated in their place; 0: none."""

    def __post_init__(self) -> None:
        if self.freeze is not None and self.stages is not None:
            raise PluginContractError("a phase says which stages are trained in one way, got freeze and stages")
        if not (0 < self.lr_ratio <= 1 and self.lr > 0 and self.epochs >= 0 and self.layer_decay > 0):
            raise PluginContractError(f"a phase needs lr > 0, lr_ratio in (0, 1], epochs >= 0, layer_decay > 0: {self}")
        if self.sampler not in ("shuffle", "balanced") or self.augment not in AUGMENTATIONS:
            known = f"known: shuffle, balanced; {', '.join(AUGMENTATIONS)}"
            raise PluginContractError(f"unknown sampler or augment in {self}; {known}")
        if not self.augment_from >= 0:
            raise PluginContractError(f"augmentation begins after 0 or more epochs, got {self.augment_from}")


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the one training loop needs beside the phases; the same for every strategy."""

    optimizer: str = "adamw"
    """``adamw`` or ``sgd`` (momentum 0.9)."""
    batch_size: int = 32
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of the gradient; 0: not clipped."""
    label_smoothing: float = 0.0
    dropout: float = 0.0
    """Before the head's linear map."""
    warmup: float = 0.1
    """Share of a phase's steps over which the lr rises from 0; then it falls on a cosine."""
    patience: int = 0
    """Evaluations without a better validation score before training stops; 0: never."""
    norm_statistics: str = "auto"
    """Batch norms in trained stages use ``batch`` statistics, ``frozen`` ones, or ``auto``: batch ones
    from 2,000 rows and batches of 32 on."""
    balance: str = "none"
    """One of :data:`BALANCES`; a head in closed form has its logits adjusted, whichever it is."""
    thresholds: bool = False
    """The model's logits are shifted at the end, where the validation rows say that it helps the metric."""

    def __post_init__(self) -> None:
        shares = (self.label_smoothing, self.dropout)
        wrong = [
            text
            for ok, text in (
                (self.optimizer in ("adamw", "sgd"), f"optimizer is adamw or sgd, got {self.optimizer!r}"),
                (self.batch_size >= 1, f"batch_size is 1 or more, got {self.batch_size}"),
                (self.weight_decay >= 0 and self.clip >= 0, "weight_decay and clip are 0 or more"),
                (all(0 <= s < 1 for s in shares), "label_smoothing and dropout lie in [0, 1)"),
                (0 <= self.warmup < 1, f"warmup lies in [0, 1), got {self.warmup}"),
                (self.norm_statistics in ("auto", "batch", "frozen"), "norm_statistics is auto, batch or frozen"),
                (self.balance in BALANCES, f"balance is one of {', '.join(BALANCES)}, got {self.balance!r}"),
                (isinstance(self.thresholds, bool), f"thresholds is true or false, got {self.thresholds!r}"),
            )
            if not ok
        ]
        if wrong:
            raise ConfigError("; ".join(wrong))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Backbone, strategy and every value: enough to train the same model again."""

    backbone: str
    strategy: str
    values: Mapping[str, Scalar] = field(default_factory=dict)
    """What the strategy's space gave: freeze_fraction, lr, lr_ratio, epochs ..."""
    freeze: int | None = None
    """freeze_fraction resolved on this backbone's stages; None where the strategy has none."""
    stages: tuple[str, ...] = ()
    """The backbone's stages, as declared or traced."""
    training: Training = Training()
    seed: int = 0
    threads: int = 1
    """CPU threads of the arithmetic; another number can change the last digits."""
    dtype: str = "float32"
    """Arithmetic; ``measured``: its first worker finds out which is faster, and its record says it."""

    @cached_property
    def key(self) -> str:
        """A short hash that names this recipe; the trial's random numbers come from it and the seed."""
        return digest(self)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A recipe not yet tried."""

    recipe: Recipe
    reason: str
    """Why it is worth trying."""
    macs: float | None = None
    """Predicted cost of full training, in multiply-accumulates."""
    seconds: float | None = None
    """The same in seconds on one worker, where it was measured."""
    rivals: tuple[Recipe, ...] = ()
    """Heads on the same frozen features that are trained beside it; the best of them is the trial."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A backbone or strategy that is not used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class CutReport:
    """One cut of one backbone: what the check said and how good the features there are."""

    after: str
    """Path of the stage before the cut."""
    ok: bool
    """prefix + suffix gives the whole, so activations may be stored here."""
    reason: str = ""
    width: int = 0
    """Pooled features at the cut."""
    score: float | None = None
    """Leave-one-out objective of a ridge head on the pooled features; higher is better."""
    loss: float | None = None
    """Mean leave-one-out loss of that head, its temperature fitted on the same predictions."""
    logme: float | None = None
    """Evidence of a Bayesian linear model, by row (You et al. 2021, corrected where rows are fewer than features)."""
    hscore: float | None = None
    """H-score with a shrunk covariance (Ibrahim et al. 2022)."""
    knn: float | None = None
    """Leave-one-out score of nearest neighbours."""
    macs: float | None = None
    """Multiply-accumulates for one row from the input to the cut."""


@dataclass(frozen=True, kw_only=True)
class SurveyRecord:
    """What the one frozen pass found about a backbone."""

    backbone: str
    status: str
    """``done``, ``partial`` (the budget allowed fewer rows), ``failed`` or ``skipped``."""
    reason: str = ""
    rows: int = 0
    """Training rows read."""
    width: int = 0
    params: int = 0
    macs: float = 0.0
    linear: float | None = None
    """Share of its weights that lie in linear layers, embeddings left out."""
    stages: tuple[str, ...] = ()
    cuts: tuple[CutReport, ...] = ()
    """One per stage; the last is the backbone's own output."""
    score: float | None = None
    """Best leave-one-out objective over the cuts."""
    seconds_per_row: float = 0.0
    """Of a pass that pools features at every cut."""
    seconds: float = 0.0
    """All that its jobs took: opening the backbone, checking its cuts, passes, heads."""
    cpu_seconds: float = 0.0
    notes: tuple[str, ...] = ()
    features: str = ""
    """File of the pooled features, relative to the run's work folder."""
    dtype: str = "float32"
    """Arithmetic of the frozen pass on the machine that ran it."""
    batch_norms: bool | None = None
    """Whether the backbone has batch norms; None: it was not looked at."""
    gap: Gap | None = None
    """How the unlabeled rows differ in its features, where they were read."""


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """One evaluation during training."""

    epoch: float
    train_loss: float
    objective: float


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A recipe tried. A failed one has a reason and no score."""

    id: str
    recipe: Recipe
    status: str
    """``done``, ``promoted`` (a later record goes on), ``stopped`` (budget) or ``failed``."""
    reason: str = ""
    rung: int = 0
    epochs: float = 0.0
    """Passes over the training rows, all rungs together."""
    best_epoch: float = 0.0
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """``scores[task][metric]`` on the validation rows."""
    objective: float | None = None
    """One number, higher is better."""
    calibrated_loss: float | None = None
    """Mean negative log-likelihood of the validation rows, in nats, at the temperature of its logits that suits them
    best; classes count alike in it where they do in the metric. None for numbers, for several targets, and for a
    training that made classes count alike where the metric does not."""
    epoch_seconds: float = 0.0
    """Of a pass over the training rows that trains a part of the backbone, evaluation left out; 0: there was none."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    worker: str = ""
    curve: tuple[CurvePoint, ...] = ()
    notes: tuple[str, ...] = ()
    checkpoint: str = ""
    """Folder of the trained tensors, relative to the run's work folder."""
    shift: tuple[float, ...] = ()
    """To be added to the logits of a model made of it, ``thresholds``; the scores are without. Empty: nothing."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What one backbone will cost, before it was run."""

    backbone: str
    survey_seconds: float | None
    """Of its frozen pass on one worker; None: nothing is known of its speed."""
    training_seconds: float | None
    """Of one full 10-epoch fine-tune on one worker."""
    memory_bytes: int
    """Of a worker that trains it, without the activations of a batch."""
    disk_bytes: int
    """Of decoded rows and pooled features in the store."""
    measured: bool = False
    """The speed was measured by an earlier run on this machine; else it rests on the card's multiply-accumulates."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a fit would do."""

    backbones: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    refusals: tuple[Refusal, ...]
    download_bytes: int = 0
    forecasts: tuple[Forecast, ...] = ()
    seconds: float | None = None
    """Predicted wall clock: the budget, or without one the survey and the first rung of each candidate."""
    expected_trials: float | None = None
    """Recipes that the budget is expected to hold; None: there is no budget, or nothing is known."""
    licences: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores on rows that took no part in training or choosing."""

    metric: str
    value: float
    low: float
    """Lower end of the 95 % interval (bootstrap over rows)."""
    high: float
    rows: int
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    each: Mapping[str, Evaluation] = field(default_factory=dict)
    """Of several targets, each on the rows that have its label."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything a finished run can tell."""

    profile: Profile
    plan: Plan
    survey: tuple[SurveyRecord, ...]
    trials: tuple[TrialRecord, ...]
    """Each recipe's last record, in the order of trying."""
    winner: str
    """Id of the winning trial."""
    status: str
    """``complete``, ``budget`` (time was up), ``interrupted``."""
    test: Evaluation | None = None
    """The winner on the held-out rows, which were used this once."""
    baseline: Evaluation | None = None
    """The best no-transfer model on the same rows."""
    sharing: tuple[Sharing, ...] = ()
    """Of several targets: what the validation rows say of one model for all against one for each."""
    seconds: float = 0.0
    """Wall clock from call to return, downloads left out."""
    cpu_seconds: float = 0.0
    """CPU time of the driver and the workers."""
    download_seconds: float = 0.0
    unit_cpu_seconds: float | None = None
    """Predicted CPU time of one full 10-epoch fine-tune of the winner's backbone."""
    workers: int = 1
    executor: str = "ray"
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    criterion: str = ""
    """What recipes were compared by, and its limits, where that was not plainly the validation rows."""
