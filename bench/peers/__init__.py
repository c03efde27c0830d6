"""What imagemill's throughput is measured beside: each contender is a program in an environment of its own."""
