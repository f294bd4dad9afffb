"""The one module that a plugin imports from."""

from autotransfer.codec import Scalar
from autotransfer.errors import AutotransferError, DataError, PluginError, TrialFailedError, WeightsError
from autotransfer.home import cache_folder
from autotransfer.hookspecs import hookimpl
from autotransfer.mend import mend_torchvision
from autotransfer.profiles import DataIssue, Profile
from autotransfer.protocols import Dataset, FittedModule, FittedState, Rows, Tokenizer
from autotransfer.schema import Phase, Recipe, SurveyRecord, Training, TrialRecord, Verdict
from autotransfer.space import Choice, Domain, Integer, LogUniform, Uniform, number
from autotransfer.spec import AudioInput, BackboneSpec, ImageInput, TextInput, WeightSource, frozen_stages
from autotransfer.strategy import (
    FinishContext,
    HeadState,
    NeighbourState,
    ObjectiveContext,
    Step,
    Strategy,
    even_spread,
    linear_weights,
)

__all__ = [
    "AudioInput",
    "AutotransferError",
    "BackboneSpec",
    "Choice",
    "DataError",
    "DataIssue",
    "Dataset",
    "Domain",
    "FinishContext",
    "FittedModule",
    "FittedState",
    "HeadState",
    "ImageInput",
    "Integer",
    "LogUniform",
    "NeighbourState",
    "ObjectiveContext",
    "Phase",
    "PluginError",
    "Profile",
    "Recipe",
    "Rows",
    "Scalar",
    "Step",
    "Strategy",
    "SurveyRecord",
    "TextInput",
    "Tokenizer",
    "Training",
    "TrialFailedError",
    "TrialRecord",
    "Uniform",
    "Verdict",
    "WeightSource",
    "WeightsError",
    "cache_folder",
    "even_spread",
    "frozen_stages",
    "hookimpl",
    "linear_weights",
    "mend_torchvision",
    "number",
]
