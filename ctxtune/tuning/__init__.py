"""The search: Optuna and ASHA on Ray Tune, with a journal that survives whatever happens."""
