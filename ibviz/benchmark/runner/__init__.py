"""A suite run to its end, whatever happens meanwhile: planned, shared out, stored in whole parts, put together."""
