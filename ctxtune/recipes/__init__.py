"""The published recipes as partial `trial` trees, and the published results."""

from ctxtune.recipes.loading import (
    RecipeNotes,
    load_recipe,
    published_recipe,
    published_results,
    recipe_names,
    recipe_notes,
)

__all__ = ["RecipeNotes", "load_recipe", "published_recipe", "published_results", "recipe_names", "recipe_notes"]
