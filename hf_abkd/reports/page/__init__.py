"""A page: texts, tables and figures as one HTML file that needs nothing beside it."""
