"""Training in memory: states, steps, the loop, optimizers, schedules, evaluation."""
