"""The embedded base ``pocket``: the world that it was trained on, how it was made, and its weights."""
