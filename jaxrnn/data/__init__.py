"""Text, tokens and the windows that training reads. Needs NumPy alone."""
