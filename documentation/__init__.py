"""The documentation site and the generated pages of its reference. Not part of the wheel."""
