"""What the safety layers catch on the embedded base, with crowns as the stand-in for what must not appear."""
