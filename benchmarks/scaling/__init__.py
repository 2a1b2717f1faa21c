"""How time and memory of a first explanation grow with the size of a graph.

python -m benchmarks.scaling                        # measures, writes benchmarks/results/scaling/graphs.json, draws
python -m benchmarks.scaling --kinds chain concat   # these only; the others stay as they are
python -m benchmarks.scaling --draw                 # draws docs/scaling.png from what is there
"""
