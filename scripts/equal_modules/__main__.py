"""The study of equal modules: how often does `parity.check` fail what is right?

    ./scripts/equal-modules                 1,000 equal modules, and some that are wrong
    ./scripts/equal-modules --count 64      fewer
    ./scripts/equal-modules --from-seed 100 other ones
    ./scripts/equal-modules --minutes 30    as many of them as half an hour allows

Prints the rate of failures of each kind with its exact 95 % bound, each failure of an equal module,
and each wrong module that did not fail. Exits with 1 if there are any.
"""

import argparse
import sys
import time

from equal_modules.kinds import KINDS
from equal_modules.study import FAILED, table, trials

# After so many modules a line says how far the study is.
TOLD_EVERY = 50


def main() -> int:
    """Run the study.

    Returns:
        1 if an equal module failed, or a wrong one did not.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000, help="equal modules")
    parser.add_argument("--wrong", type=int, default=2, help="seeds of wrong modules, of all kinds")
    parser.add_argument("--from-seed", type=int, default=0, help="the first seed")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="for equal modules")
    options = parser.parse_args()

    started = time.monotonic()
    first = options.from_seed
    seeds = range(first, first - (-options.count // len(KINDS)))
    equal = []
    for trial in trials(seeds, wrong=False):
        equal.append(trial)
        if trial.outcome in FAILED:
            print(f"{trial.outcome}: {trial.kind}, seed {trial.seed}: {trial.words}", flush=True)
        if len(equal) % TOLD_EVERY == 0:
            print(f"{len(equal)} of {options.count}", file=sys.stderr, flush=True)
        out_of_time = time.monotonic() - started > 60 * options.minutes
        if len(equal) == options.count or out_of_time:
            break
    print("\n".join(["", "Equal modules", *table(equal)]), flush=True)

    wrong = list(trials(range(first, first + options.wrong), wrong=True))
    missed = [trial for trial in wrong if trial.outcome not in FAILED]
    print(f"\n{len(wrong) - len(missed)} of {len(wrong)} wrong modules fail.")
    for trial in missed:
        print(f"{trial.outcome}: {trial.kind}, seed {trial.seed}: {trial.mistake}")
    return int(bool(missed) or any(trial.outcome in FAILED for trial in equal))


if __name__ == "__main__":
    sys.exit(main())
