"""Builder of the documentation site: writes docs/reference/keys.md, and turns docs/ and README.md into HTML."""
