"""The engine: plans the walk, runs the network, walks relevance back, compiles both, and feeds batches in chunks."""
