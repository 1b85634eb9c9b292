"""The version of this release; the changelog's newest entry carries the same number."""

VERSION = "0.1.0"
