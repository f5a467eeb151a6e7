"""Work on hostile input in child processes that can be killed: time, memory and crash limits."""
