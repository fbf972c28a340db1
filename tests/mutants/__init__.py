"""Named changes that the tests must notice, as data, and what tries them."""
