"""Hostile files by the thousand: models of every kind and saved explanations, mutated, given to whatever reads them.

    python -m benchmarks.fuzz --files 10000               # from seed 0, in two processes; writes fuzz.json
    python -m benchmarks.fuzz --replay 0:1234             # one file again, with the traceback

Whatever a file holds, reading, surveying, lowering and explaining it must end in a result or in an error of the
library's own, within ten seconds and two gibibytes, without a warning, and open nothing outside the file's folder; what
is computed must be what onnxruntime computes, where it takes the file. All else is a finding. A file is made from its
seed and its number alone.
"""
