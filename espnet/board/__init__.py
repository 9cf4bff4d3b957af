"""The only room that speaks HTTP to boards.

``calls`` describes every call once; ``client`` sends one for a person (requests), ``link`` sends many
for the collector (asyncio).
"""
