"""The schema: what is declared, what a database has, and the steps from one to the other."""
