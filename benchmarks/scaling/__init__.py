"""How the cost of compiling grows with the size of a graph."""
