"""Settings of recipes and suites in one place; each is defined in the package that it sets."""

from ibviz.benchmark.config import MethodConfig, NamedModel, ProtocolConfig, SuiteConfig
from ibviz.data.config import DataConfig
from ibviz.models.config import InputConfig, ModelConfig, ObjectiveConfig
from ibviz.training.recipe import Cosine, Halve, Milestones, Recipe, StepDecay, Sweep, TrainingConfig

__all__ = [
    "Cosine",
    "DataConfig",
    "Halve",
    "InputConfig",
    "MethodConfig",
    "Milestones",
    "ModelConfig",
    "NamedModel",
    "ObjectiveConfig",
    "ProtocolConfig",
    "Recipe",
    "StepDecay",
    "SuiteConfig",
    "Sweep",
    "TrainingConfig",
]
