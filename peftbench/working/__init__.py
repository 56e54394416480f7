"""Many workers and one store: who does what, how far they are, and stores that become one."""
