"""The paper's tables: what to train, where to run it, and what came out."""
