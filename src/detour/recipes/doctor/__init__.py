"""Rules for what makes bad pictures: pure functions of facts, each finding with its cause and its fix."""
