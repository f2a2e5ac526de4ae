"""What is compared and how equality is judged: pairs of functions, runners, references."""
