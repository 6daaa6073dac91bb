"""Who clsync and its programs are, what is out of their reach, and what a broker and its worker say to each other."""
