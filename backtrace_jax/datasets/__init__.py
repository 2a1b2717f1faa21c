"""Whole datasets in one call: read, explained and stored block by block, so that it can be killed and go on."""
