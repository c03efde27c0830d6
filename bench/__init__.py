"""What imagemill costs beside floors and peers: `python -m bench`, run by hand and never as a timed test."""
