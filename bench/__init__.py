"""What imagemill costs beside a bare loop: `python -m bench`, run by hand and never as a timed test."""
