"""Explanations for people: pictures, notebook HTML, terminal text, and the file format they are kept in."""
