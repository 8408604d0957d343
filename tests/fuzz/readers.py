"""The table of all readers of foreign files."""

from tests.fuzz import of_formats, of_runs, of_sources

READERS = {reader.name: reader for module in (of_formats, of_sources, of_runs) for reader in module.READERS}
