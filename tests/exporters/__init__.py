"""Real exporters side by side: the same weights through each of them, and one relevance."""
