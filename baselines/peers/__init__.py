"""What a user would have written or called instead. Import-guarded."""
