"""Sample sizes: the number of items or cases that a study needs, planned before anyone rates them."""
