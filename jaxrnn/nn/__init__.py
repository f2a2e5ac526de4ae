"""Linen modules: layers, the models of the course, and losses."""
