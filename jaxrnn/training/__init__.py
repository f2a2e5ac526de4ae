"""Training: states, steps, schedules, recipes, checkpoints and the loop."""
