"""Generation: how the next token is sampled, and the loop that generates text."""
