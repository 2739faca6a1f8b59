"""Reports of sweeps and ablations from MLflow (`writing.write_report`), and error galleries."""
