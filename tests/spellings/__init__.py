"""Tests that relevance belongs to the network, not to how a file spells it (RULES section 13)."""
