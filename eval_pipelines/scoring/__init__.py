"""From verdicts to numbers. Pure functions; nothing here asks, reads or writes."""
