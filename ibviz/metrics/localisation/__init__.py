"""Where maps point, and where their energy lies, against the region of an object."""
