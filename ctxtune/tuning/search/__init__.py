"""What to try next: Optuna's samplers, rounding, several objectives, warm starts."""
