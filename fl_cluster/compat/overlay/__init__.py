"""A folder on the import path; the one package in it is found under its own name."""
