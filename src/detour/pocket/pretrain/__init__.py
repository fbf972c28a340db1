"""Making the embedded base: from captions and pictures of the world to a folder of weights."""
