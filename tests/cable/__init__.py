"""The USB cable, with the real esptool and the real mpremote at its other end."""
