"""Recurrent character models in JAX and Flax, stateful and equal to PyTorch's.

Shapes, everywhere: T time steps, B batch, V vocabulary, F embedding size, H hidden size; time
comes first, and the carry comes first, in and out.

The public names stand in `__init__.pyi`. Each is imported when it is first used: a command that
only prints its help does not wait for JAX.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
