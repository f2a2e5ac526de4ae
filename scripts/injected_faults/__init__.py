"""How many faults that are put into ports of PyTorch's modules are found, placed and explained."""
