"""What is known of a graph before it runs: axes, integers that are quantities, values that bear relevance, facts."""
