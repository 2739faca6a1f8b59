"""The config tree: YAML files into typed settings, with errors that name file, line and key."""

from ctxtune.config.ablation import Ablation, BestOf
from ctxtune.config.cell_search import search_of
from ctxtune.config.cells import Cell
from ctxtune.config.design import Contrast, cells_of, contrasts_of, reference_cell
from ctxtune.config.dimensions import Dimension
from ctxtune.config.load import load_search_space, load_trial_file
from ctxtune.config.load_ablation import load_ablation
from ctxtune.config.resolve import changed_values, resolve_trial, searched_models, start_points, with_values
from ctxtune.config.seeds import stage_seed
from ctxtune.config.sweep import SweepConfig, TrialFile
from ctxtune.config.trial import TrialSettings

__all__ = [
    "Ablation",
    "BestOf",
    "Cell",
    "Contrast",
    "Dimension",
    "SweepConfig",
    "TrialFile",
    "TrialSettings",
    "cells_of",
    "changed_values",
    "contrasts_of",
    "load_ablation",
    "load_search_space",
    "load_trial_file",
    "reference_cell",
    "resolve_trial",
    "search_of",
    "searched_models",
    "stage_seed",
    "start_points",
    "with_values",
]
