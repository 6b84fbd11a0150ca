"""Files that people have, packed: weights of four to eight bits, as arrays that unpack what is asked for."""
