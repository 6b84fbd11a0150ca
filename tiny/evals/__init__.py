"""The published evaluation protocols of Pixtral and Mixtral, from a row of a data set to a score. See `tasks.py`."""
