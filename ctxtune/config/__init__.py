"""The config tree: YAML files into typed settings, with errors that name file, line and key."""

from ctxtune.config.load import load_search_space, load_trial_file
from ctxtune.config.resolve import resolve_trial, start_points, with_values
from ctxtune.config.search import Dimension, SearchSpace, TrialFile
from ctxtune.config.seeds import stage_seed
from ctxtune.config.trial import TrialSettings

__all__ = [
    "Dimension",
    "SearchSpace",
    "TrialFile",
    "TrialSettings",
    "load_search_space",
    "load_trial_file",
    "resolve_trial",
    "stage_seed",
    "start_points",
    "with_values",
]
