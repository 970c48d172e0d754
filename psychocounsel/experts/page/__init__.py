"""The blind page: forms and pages of a review, served on loopback."""
