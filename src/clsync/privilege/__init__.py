"""Who clsync and its programs are, and what is out of their reach: a plan of steps, and their carrying out."""
