"""Optimizers of optax's by name: their direction, which the schedule's rate scales.

./scripts/jaxrnn train --optimizer scripts/examples/any_optimizer.py:LION
./scripts/jaxrnn train --optimizer scripts/examples/any_optimizer.py:LAMB --clip 1
"""

import optax

from jaxrnn import Optimizer


def uphill(name: str) -> optax.GradientTransformation:
    """The direction of any optimizer: its updates at rate 1 point downhill."""
    return optax.chain(getattr(optax, name)(1.0), optax.scale(-1.0))


# Parts of optax's, in a chain.
LION = Optimizer(optax.scale_by_lion)
# A whole optimizer, by its name.
LAMB = Optimizer(uphill, (("name", "lamb"),))
YOGI = Optimizer(uphill, (("name", "yogi"),))
