"""The firmware's version, in a file of its own so that tools can read and stamp it."""

VERSION = "0.1.0"
