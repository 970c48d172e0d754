"""How many items or cases a study needs, before anyone rates them."""
