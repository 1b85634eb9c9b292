"""What the fuzzers have in common: targets, their corpora, and runs under atheris."""
