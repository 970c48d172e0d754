"""What several sections ask of runs: their settings, by what they are judged, what beats what, what cannot be compared."""
