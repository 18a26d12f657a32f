"""The page of a results folder: what is in it, its charts, and its words for a paper."""
