"""Deliberate mistakes in the library, each of which the suite must notice."""
