"""The page of a run folder and its figures."""
