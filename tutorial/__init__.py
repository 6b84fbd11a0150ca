"""The tutorial: chapters that show the book, exercises carved from it, and their grader."""
