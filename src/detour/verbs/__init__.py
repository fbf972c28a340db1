"""One verb each: spec in, result out, nothing printed. This is the Python API."""
