"""What lies between the book and the machine: files from anywhere, and what is wrong with them; free memory."""
