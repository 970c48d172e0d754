"""How an attempt at a run ended: what its logs say, how far it came, and whether another one follows."""
