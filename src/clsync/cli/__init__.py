"""argv -> settings -> daemon; the only package that prints and exits."""
