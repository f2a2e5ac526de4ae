"""What is measured on both sides: updates, trajectories, whole runs, generation, initialization."""
