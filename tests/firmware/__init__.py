"""Laws of the firmware, proved on simulated boards."""
