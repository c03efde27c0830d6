"""The page of a run report: its words, its tables, its drawings, its template."""
