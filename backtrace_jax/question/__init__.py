"""What is asked of a model: settings, inputs, tasks, targets, start relevance, constants."""
