"""Read along: one notebook for each chapter, built from the percent scripts in this folder by `make notebooks`."""
