"""Random calls of every public function: sampled as lines of Python, made on every backend."""
