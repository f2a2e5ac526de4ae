"""How a weight map is found: names, shapes and order, and what trying decides."""
