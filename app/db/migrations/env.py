"""Alembic's entry. The connection comes from app.db.migrate, which holds the lock and the time limits."""

from alembic import context

from app.db.schema import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
