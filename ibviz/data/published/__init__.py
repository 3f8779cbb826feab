"""Published data sets in the layout of their own archives."""
