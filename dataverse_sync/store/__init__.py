"""The copy: the only home of SQLAlchemy."""
