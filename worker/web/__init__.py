"""HTTP: the same work over another wire, in a process that never imports torch."""
