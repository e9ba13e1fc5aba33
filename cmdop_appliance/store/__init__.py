"""The store: the only package that speaks SQL. `engine` runs it, one module per noun holds it."""
