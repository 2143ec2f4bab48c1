"""How results are shown to people: tables and pictures in a terminal."""
