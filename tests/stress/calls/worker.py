"""A process that makes sampled calls; see `jaxrnn.runs.worker_process`.

    python -m stress.calls.worker SEED FIRST COUNT shapes|executed

It emits [NUMBER, null] before each call, and [NUMBER, FAULTS] after it, a list of what was wrong.
"""

import sys

from jaxrnn.runs.worker_process import Channel
from stress.calls.judging import faults_of
from stress.calls.sampling import sample_call


def main() -> int:
    """Make calls FIRST to FIRST + COUNT - 1."""
    channel = Channel()
    seed = int(sys.argv[1])
    first = int(sys.argv[2])
    count = int(sys.argv[3])
    executed = sys.argv[4] == "executed"
    for number in range(first, first + count):
        call = sample_call(seed, number, executed=executed)
        channel.emit([number, None])
        channel.emit([number, faults_of(call, executed=executed)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
