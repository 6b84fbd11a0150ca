"""The writers of the generated pages, with the records that they are made from."""
