"""How a version reaches users and is taken back: stop, blame, bake, rollback, restore."""
