"""What clsync 0.4.5 gave its handlers, recorded, and compared with what this program gives them."""
