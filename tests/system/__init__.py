"""End to end: real firmware on simulated boards, real `espcli` processes, a real Redis, the intake."""
