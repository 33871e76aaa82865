"""Files as users write them and as this project keeps them: tables, paths, locks."""
