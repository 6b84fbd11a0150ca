"""The appendix of the book: from a folder or a file to a configuration, tensors and a tokenizer."""
