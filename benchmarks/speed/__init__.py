"""What an explanation costs, in seconds and bytes, beside everything it can be compared with, in one interleaved run.

    python -m benchmarks.speed --workloads resnet18 --batches 1 8      # measure; updates benchmarks/results/
    python -m benchmarks.speed.tables                                  # write docs/benchmarks.md
    python -m benchmarks.speed.guard                                   # what got slower since the baseline
    python -m benchmarks.speed.environments zennit captum lxt          # install the peers

A *workload* is a network with inputs, stored once so that all have the same weights. A *contestant* computes something
with it: an explanation, ours or a peer's, or what an explanation is measured against, a forward pass or a gradient.
Each runs in a process of its own, in the environment of its packages; the processes stay alive and take turns, so that
a drift of the machine's speed hits all alike. What counts is the ratio of two contestants in the same round.
"""
