"""Writes docs/combinations.md from the table that configurations are judged by.

python tools/document_combinations.py
"""

from __future__ import annotations

from pathlib import Path

from fl_cluster.config.combinations import as_markdown

TARGET = Path(__file__).resolve().parent.parent / "docs" / "combinations.md"

INTRODUCTION = """\
# What goes together

<!-- Written by tools/document_combinations.py; `make docs` writes it again. -->

Encryption, compression, kind of job, aggregation and evaluation can be combined as this page \
says; everything else is refused when the configuration is read, with the reason.
The page and the check come from one table, `fl_cluster/config/combinations.py`.

A cell says what happens to an encryption (column) with one other setting (line), the rest being \
defaults; where it depends on the kind of job, the best is shown.
*Changed* means that the other setting is switched off, with a warning in the log.

"""

if __name__ == "__main__":
    TARGET.write_text(INTRODUCTION + as_markdown(), "utf-8")
