"""What both frameworks are made to do: updates, trajectories, whole runs, texts, fresh weights."""
