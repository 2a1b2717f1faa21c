"""Recall of the cause: two small trained models whose answer hangs on one known place of a long input.

    flag_lstm            must report a flag seen about 35 steps before the end of a sequence
    lookup_transformer   must report the value that stands after a key in a list of pairs

The scripts `make_*.py` train them and write an `.onnx` file and an `.npz` file of held-out sequences beside this file;
`test_recall` asks how often the place that decided the answer is also the one with the most relevance.
"""
