"""Runs on disk: configuration, recipes, experiments, the folder of a run, its checkpoints."""
