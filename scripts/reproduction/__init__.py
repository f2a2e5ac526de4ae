"""The course's published losses, reproduced: what is trained, by whom, and what came of it."""
