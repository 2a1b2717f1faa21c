"""What is asked of the machine: XLA's options, interrupts, processes, and files of unknown origin."""
